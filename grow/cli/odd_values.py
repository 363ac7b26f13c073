"""Values that no key takes: refused here for the whole configuration, before any settings look at them."""

import math
from typing import Any

from grow.cli.run_config import EstimateConfig
from grow.cli.spelling import LISTS_OF_PATHS, PATHS
from grow.common.errors import ConfigError
from grow.common.identity import flat
from grow.common.output_path import refuse_impossible, refuse_unwritable
from grow.inspection.settings import InspectDataConfig
from grow.report.settings import WandbReportConfig

_LARGEST_INTEGER = 2**63 - 1  # of int64, in which tokens, steps and seeds are counted
_LONGEST_NAME = 100
_OUTPUT_IS_A_FILE = (EstimateConfig, WandbReportConfig)


def refuse_odd_values(config: Any) -> None:
    """Refuse infinite and absurdly large numbers, NaN, names that name no file, and paths that cannot be one.

    Args:
        config: A whole configuration as plain dictionaries, lists and values.

    Raises:
        ConfigError: naming the key.
    """
    for key, value in flat(config).items():
        for single in value if isinstance(value, list) else [value]:
            _refuse_number(key, single)
            if isinstance(single, str):
                _refuse_text(key, single)


def refuse_output(config: Any) -> None:
    """Refuse an `output` where nothing can be written.

    Raises:
        ConfigError: saying what is in the way.
    """
    output = getattr(config, "output", None)
    if isinstance(output, str):
        refuse_unwritable("output", output, is_file=_is_file(config))


def _is_file(config: Any) -> bool:
    if isinstance(config, InspectDataConfig):
        return config.decontaminate is not None
    return isinstance(config, _OUTPUT_IS_A_FILE)


def _refuse_number(key: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value}: expected a finite number.")
    if isinstance(value, (int, float)) and abs(value) > _LARGEST_INTEGER:
        raise ConfigError(f"{key}={value:.3g}: expected a number of at most {_LARGEST_INTEGER:.3g}.")


def _refuse_text(key: str, text: str) -> None:
    if key in PATHS or key in LISTS_OF_PATHS:
        refuse_impossible(key, text)
    if key.rpartition(".")[2] == "name" and (not text or len(text) > _LONGEST_NAME or "/" in text or "\0" in text):
        raise ConfigError(
            f"{key}={text[:40]!r}: expected a name of at most {_LONGEST_NAME} characters without a slash; directories "
            "are named after it."
        )
