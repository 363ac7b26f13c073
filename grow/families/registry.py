"""Every family that Grow knows, by transformers' model_type."""

from typing import TYPE_CHECKING

from grow.common.errors import ConfigError, GrowthError
from grow.families.family import Family
from grow.families.flex_olmo import FLEX_OLMO
from grow.families.gemma2 import GEMMA2
from grow.families.gemma3 import GEMMA3
from grow.families.gpt2 import GPT2
from grow.families.gpt_neox import GPT_NEOX
from grow.families.llama import LLAMA
from grow.families.mistral import MISTRAL
from grow.families.mixtral import MIXTRAL
from grow.families.olmo import OLMO
from grow.families.olmo2 import OLMO2
from grow.families.olmo3 import OLMO3
from grow.families.olmoe import OLMOE
from grow.families.opt import OPT
from grow.families.phi3 import PHI3
from grow.families.qwen2 import QWEN2
from grow.families.qwen3 import QWEN3
from grow.families.qwen3_moe import QWEN3_MOE
from grow.families.settings import ModelSettings
from grow.families.smollm3 import SMOLLM3

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_DENSE = (OPT, GPT_NEOX, GPT2, OLMO, OLMO2, OLMO3, LLAMA, MISTRAL, SMOLLM3, QWEN2, QWEN3, PHI3, GEMMA2, GEMMA3)
_MIXTURES = (MIXTRAL, FLEX_OLMO, OLMOE, QWEN3_MOE)
FAMILIES = {family.model_type: family for family in (*_DENSE, *_MIXTURES)}


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
