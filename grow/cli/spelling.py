"""The words of a command line as people write them, rewritten as Hydra's grammar takes them.

1e6, 10M and 300B are numbers of tokens; a path may have any character in it; `auto` is the vocabulary of the data.
Every configuration passes here on its way to Hydra, so that sweeps, chains and the Python door take what a shell does.
"""

import re
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

ALIASES = {
    "eval": {"checkpoint": "checkpoints"},
    "inspect_data": {"corpus": "data.path"},
    "extract_plugin": {"model": "tuned"},
}
"""Keys of a command that stand for others: `checkpoint=RUN` of eval.py names a model, but `checkpoint` is a group of
train.py, in which Hydra would look for a choice RUN, and so is `model`; `corpus` is the one path that
scripts/inspect_data.py reads."""

PATHS = frozenset(
    (
        *(
            "run_dir",
            "data.path",
            "growth.source",
            "model.grown_from",
            "evaluation.data_dir",
            "output",
            "source",
            "run",
        ),
        *("tokenizer", "heldout", "adopt", "decontaminate", "base", "corpus", "table", "tuned"),
    )
)
"""Keys whose value is a path, or the name of a model on the hub."""
LISTS_OF_PATHS = frozenset(["growth.sources", "runs", "baseline", "continued", "checkpoints", "input", "models"])
"""Keys whose value is a path or a list of them."""

TOKEN_FORMS = "1000000, 1_000_000, 1e6, 2.5e9, 4k, 10M, 300B or 2T"
"""How a number of tokens may be written on the command line."""
_TAKE_A_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p")
_UNITS = {"": 0, "k": 3, "m": 6, "b": 9, "t": 12}
_NUMBER = re.compile(r"(?<![\w.])(\d[\d_]*(?:\.\d+)?)(?:e\+?(\d{1,2}))?([kmbt]?)(?![\w.])", re.IGNORECASE)
_LISTED = re.compile(r"""\s*('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,]*?)\s*(?:,|$)""")

VOCABULARY_OF_THE_DATA = "'${vocabulary_of:${data.path},${data.prepare}}'"
"""What model.vocab_size=auto stands for; grow/cli/config.py has the resolver."""


def spelled(config_name: str, arguments: list[str]) -> list[str]:
    """Return the arguments of a command as Hydra takes them: no alias, no path that it would misread, plain numbers."""
    aliases = {**ALIASES.get(config_name, {}), **_source_without_growth(arguments)}
    sweep = bool({"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments))
    return [_argument(argument, aliases, sweep) for argument in _flags_first(arguments)]


def _source_without_growth(arguments: list[str]) -> dict[str, str]:
    """Return the alias by which growth.source names the model that model=scaled is derived from, where nothing grows.

    growth=none has no settings, so that growth.source would be refused.
    """
    growths = {argument.partition("=")[2] for argument in arguments if argument.startswith("growth=")}
    return {"growth.source": "model.grown_from"} if "model=scaled" in arguments and growths <= {"none"} else {}


def _flags_first(arguments: list[str]) -> list[str]:
    """Return the flags and then the overrides: Hydra refuses overrides on both sides of a flag."""
    flags: list[str] = []
    overrides: list[str] = []
    for before, word in pairwise(["", *arguments]):
        is_override = ("=" in word or word.startswith("~")) and not word.startswith("-")
        (overrides if is_override and before not in _TAKE_A_VALUE else flags).append(word)
    return flags + overrides


def is_number_of_tokens(key: str) -> bool:
    """Return whether a dotted key is a number of tokens: trainer.max_tokens, trainer.tokens_per_step, ..."""
    return "tokens" in key.rpartition(".")[2].split("_")


def _argument(argument: str, aliases: dict[str, str], sweep: bool) -> str:
    written, equals, value = argument.partition("=")
    if not equals or written.startswith("-"):
        return argument
    name = written.lstrip("+~")
    key = aliases.get(name, name)
    if key in PATHS or key in LISTS_OF_PATHS:
        value = _path(value, sweep=sweep, listed=key in LISTS_OF_PATHS)
    elif is_number_of_tokens(key):
        value = _NUMBER.sub(_whole, value)
    elif key == "model.vocab_size" and value == "auto":
        value = VOCABULARY_OF_THE_DATA
    return written.removesuffix(name) + key + equals + value


def _whole(number: re.Match[str]) -> str:
    """Return a number of tokens in digits; what is not a whole number stays as it is, and is refused later."""
    digits, exponent, unit = number.groups()
    if not exponent and not unit:
        return number[0]
    value = Decimal(digits.replace("_", "")).scaleb(int(exponent or 0) + _UNITS[unit.lower()])
    return str(int(value)) if value == value.to_integral_value() else number[0]


def _path(value: str, *, sweep: bool, listed: bool) -> str:
    """Return a path in quotes if Hydra would read it as something else; interpolations and null are left alone."""
    if value in ("", "null", "???") or "${" in value:
        return value
    if value.startswith("~/"):  # a shell expands it only at the beginning of a word
        value = str(Path(value).expanduser())
    parsed, is_sweep = _parsed(value)
    in_quotes = value[0] in "'\"" and isinstance(parsed, str)
    if parsed == value or in_quotes or (sweep and is_sweep):
        return value
    if listed and value.startswith("[") and value.endswith("]"):
        if isinstance(parsed, list) and all(isinstance(item, str) for item in parsed):
            return value
        items = [item for item in _LISTED.findall(value[1:-1]) if item]
        return f"[{','.join(_path(item, sweep=False, listed=False) for item in items)}]"
    if sweep and "," in value:
        return ",".join(_path(item, sweep=False, listed=False) for item in value.split(","))
    return QuotedString(text=value, quote=Quote.single).with_quotes()


def _parsed(value: str) -> tuple[Any, bool]:
    """Return what Hydra takes a value for, and whether for a sweep; None for what it cannot read."""
    try:
        override = OverridesParser.create().parse_override(f"key={value}")
        return override.value(), override.is_sweep_override()
    except HydraException:
        return None, False
