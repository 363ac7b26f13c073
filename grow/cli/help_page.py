"""The answer to --help: what a program is, the groups a user chooses from, the program's own settings, and the flags.

Groups are listed from the folders of configs/ and described by the typed settings. Hydra's own help is not used: it
copies its whole store for every group, which takes seconds.
"""

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import yaml

from grow.cli.config import GROUPS
from grow.cli.spelling import ALIASES
from grow.common.places import CONFIG_DIR

_FLAGS = {
    "--cfg job": "print every key with its value, and start nothing",
    "-m KEY=A,B": "one run for each value, one after another",
    "--config-dir DIR": "take choices from a folder of your own too",
    "--hydra-help": "print Hydra's own flags",
}
_WIDTH, _COLUMN = 120, 30


def help_page(program: str, description: str, config_name: str, schema: type) -> str:
    """Return what a program answers to --help.

    Args:
        program: File name of the program.
        description: Its module's docstring: what it is, and commands to try.
        config_name: Name of its configuration in configs/.
        schema: Dataclass its configuration is parsed into.
    """
    values, choices = _defaults(config_name)
    hidden = getattr(schema, "hidden_groups", ())
    shown = [name for name in [*GROUPS, "experiment"] if name in choices and name not in hidden]
    groups = [_group(name, choices[name]) for name in shown]
    aliases = {key: alias for alias, key in ALIASES.get(config_name, {}).items()}
    settings = [_line(aliases.get(key, key), value, text) for key, value, text in _settings(schema, values)]
    flags = [f"  {flag:<20}{text}" for flag, text in _FLAGS.items()]
    titled = {"GROUP=CHOICE, with the default": groups, "KEY=VALUE, with the default": settings, "Flags": flags}
    listed = [f"{title}:\n\n" + "\n".join(lines) for title, lines in titled.items() if lines]
    return "\n\n".join([f"{program}: {inspect.cleandoc(description)}", *listed])


def _defaults(config_name: str) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Return the values and the groups' choices in a configuration file and in the files that it takes."""
    content = yaml.safe_load((CONFIG_DIR / f"{config_name}.yaml").read_text())
    values: dict[str, Any] = {}
    choices: dict[str, str | None] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, dict):
            named = {name.removeprefix("optional "): choice for name, choice in entry.items()}
            choices |= {name: choice for name, choice in named.items() if (CONFIG_DIR / name).is_dir()}
        elif (CONFIG_DIR / f"{entry}.yaml").exists():
            taken_values, taken_choices = _defaults(entry)
            values |= taken_values
            choices |= taken_choices
    return values | content, choices


def _group(name: str, choice: str | None) -> str:
    """Return the line of a group, and its choices below it."""
    folder = CONFIG_DIR / name
    choices = sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))
    purpose = (name in GROUPS and inspect.getdoc(GROUPS[name])) or "A shipped experiment, over the choices above."
    listed = textwrap.fill(", ".join(choices), _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return _line(name, choice, re.split(r"\.\s|\.$", purpose)[0]) + f"\n{listed}"


def _settings(schema: type, values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield key, default and meaning of what a command takes besides its groups."""
    meanings = {key: text for cls in reversed(schema.__mro__[:-1]) for key, text in _documented(cls).items()}
    for field in dataclasses.fields(schema):
        made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        default = values.get(field.name, made)
        if dataclasses.is_dataclass(default):
            yield from _settings(type(default), {}, f"{prefix}{field.name}.")
        elif field.name not in GROUPS:
            yield prefix + field.name, default, meanings.get(field.name, "")


def _line(key: str, value: Any, text: str) -> str:
    """Return KEY=VALUE as one would type it, and what it is; a value that has to be given is in capitals."""
    if value is dataclasses.MISSING:
        shown = key.upper()
    else:
        shown = json.dumps(value).replace(" ", "").replace('"', "")
    return textwrap.fill(
        f"{key}={shown}".ljust(_COLUMN - 2) + text, _WIDTH, initial_indent="  ", subsequent_indent=" " * _COLUMN
    ).rstrip()


def _documented(cls: type) -> dict[str, str]:
    """Return the string below each field of a dataclass."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found
