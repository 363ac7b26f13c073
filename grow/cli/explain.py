"""Turns what Hydra, OmegaConf and libraries that write files raise into one paragraph for a user."""

import difflib
import errno
import os

from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from grow.cli.spelling import TOKEN_FORMS, is_number_of_tokens
from grow.common.errors import ConfigError, GrowError


def explain(error: BaseException) -> GrowError:
    """Return one paragraph for a user out of what Hydra or OmegaConf raised."""
    if (ours := _raised_by_a_resolver(error)) is not None:
        return ours
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, wrong = error.missing_cfg_file.rpartition("/")
        options = [option for option in error.options if not option.endswith("_schema")]
        return ConfigError(f"{group}={wrong}: no such option. {_nearest(wrong, options)}Options: {', '.join(options)}.")
    if is_set_below_null(error):
        return ConfigError(
            "growth.*: growth=none takes no settings. Choose a preset too, e.g. growth=hyperclone_noisy; "
            "for a sweep that has both, name the source as model.grown_from=DIRECTORY_OR_HUB_ID."
        )
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
    if isinstance(cause, ValidationError) and cause.full_key:
        forms = f" Write a number of tokens as {TOKEN_FORMS}." if is_number_of_tokens(cause.full_key) else ""
        return ConfigError(f"{cause.full_key}: {str(cause).splitlines()[0]}.{forms}")
    return ConfigError(" ".join(str(cause).split()))


def _raised_by_a_resolver(error: BaseException) -> GrowError | None:
    """Return the error of ours for which OmegaConf raised one of its own."""
    before = error.__context__
    while before is not None and not isinstance(before, GrowError):
        before = before.__context__
    return before


def is_set_below_null(error: BaseException) -> bool:
    """Return whether OmegaConf refused to set a key below a node that is null; it has no error of its own for that."""
    return isinstance(error, AssertionError) and raised_in(error, "omegaconf")


def raised_in(error: BaseException, package: str) -> bool:
    """Return whether a package raised an error, as submitit a RuntimeError where there is no Slurm."""
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
    """Return whether an error is about a full disk; libraries wrap the system's error each in a class of their own."""
    return os.strerror(errno.ENOSPC) in str(error) or os.strerror(errno.EDQUOT) in str(error)
