"""Every family that Grow knows, by transformers' model_type."""

from typing import TYPE_CHECKING

from grow.common.errors import ConfigError, GrowthError
from grow.families.family import Family
from grow.families.flex_olmo import FLEX_OLMO
from grow.families.gpt_neox import GPT_NEOX
from grow.families.llama import LLAMA
from grow.families.mixtral import MIXTRAL
from grow.families.olmo import OLMO
from grow.families.olmo2 import OLMO2
from grow.families.opt import OPT
from grow.families.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FAMILIES = {family.model_type: family for family in (OPT, GPT_NEOX, OLMO, OLMO2, LLAMA, MIXTRAL, FLEX_OLMO)}


def family_of(model_type: str) -> Family:
    """Return the family of a model type.

    Raises:
        GrowthError: Grow has no axis table for it.
    """
    if model_type not in FAMILIES:
        raise GrowthError(
            f"model_type={model_type!r}: Grow has no axis table for this family. It knows {', '.join(FAMILIES)}; "
            "CONTRIBUTING.md says how to add one."
        )
    return FAMILIES[model_type]


def stock_config(model: ModelSettings) -> "PreTrainedConfig":
    """Build the transformers configuration of a model's settings.

    Raises:
        ConfigError: transformers refuses the sizes.
    """
    try:
        return family_of(model.family).stock_config(model)
    except ConfigError:
        raise
    except Exception as error:  # transformers wraps its validators' errors in a class of its own
        raise ConfigError(f"model={model.name}: {' '.join(str(error).split())}") from None
