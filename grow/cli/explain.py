"""One paragraph for a user out of what Hydra and OmegaConf raise. Part of grow/cli/config.py, and used by it alone."""

import difflib
import errno
import os

from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from grow.common.errors import ConfigError


def explain(error: BaseException) -> ConfigError:
    """One paragraph for a user out of what Hydra and OmegaConf raise."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, wrong = error.missing_cfg_file.rpartition("/")
        options = [option for option in error.options if not option.endswith("_schema")]
        return ConfigError(f"{group}={wrong}: no such option. {_nearest(wrong, options)}Options: {', '.join(options)}.")
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    if isinstance(cause, MissingMandatoryValue):
        return ConfigError(f"{cause.full_key or cause.msg} has no value. Give one on the command line: KEY=VALUE.")
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.key is not None:
        known = _known_keys(cause)
        where = f" in {cause.object_type.__name__}" if isinstance(cause.object_type, type) else ""
        return ConfigError(
            f"{cause.full_key}: no such key{where}. {_nearest(str(cause.key), known)}"
            f"Keys: {', '.join(known) or 'see --cfg job'}."
        )
    return ConfigError(" ".join(str(cause).split()))


def raised_in(error: BaseException, package: str) -> bool:
    """Where an error comes from, for libraries that have none of their own.

    OmegaConf asserts when a key below a null node is set; submitit raises RuntimeError where there is no Slurm.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == package


def _known_keys(error: OmegaConfBaseException) -> list[str]:
    fields = getattr(error.object_type, "__dataclass_fields__", None)
    return sorted(fields) if fields else []


def _nearest(wrong: str, options: list[str]) -> str:
    close = difflib.get_close_matches(wrong, options, n=1)
    return f"Did you mean {close[0]}? " if close else ""


def is_full_disk(error: Exception) -> bool:
    """Libraries that write files each wrap the system's error in a kind of their own."""
    return os.strerror(errno.ENOSPC) in str(error) or os.strerror(errno.EDQUOT) in str(error)
