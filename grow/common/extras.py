"""Packages that only some runs need: Grow's extras in pyproject.toml. A missing one is refused before work starts."""

import importlib.util

from grow.common.errors import ConfigError

EXTRAS = {  # package: the extra that installs it
    "datasets": "eval",
    "deepspeed": "deepspeed",
    "gguf": "gguf",
    "lm_eval": "eval",
    "peft": "plugins",
    "pyarrow": "eval",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "wandb_workspaces": "wandb",
}


def require(package: str, wanted_by: str) -> None:
    """Refuse to go on without an optional package, which is not imported here.

    Args:
        package: Name by which it is imported.
        wanted_by: What needs it, such as `strategy=zero2`.

    Raises:
        ConfigError: the package is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{wanted_by}: the package {package} is not installed. Install it with "
            f"`pip install {package.replace('_', '-')}`, or with `pip install '.[{EXTRAS[package]}]'` in Grow's folder."
        )
