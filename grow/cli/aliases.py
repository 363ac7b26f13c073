"""Keys of a command line that Hydra would misread, and what they stand for. Part of grow/cli/config.py.

`checkpoint=RUN` of eval.py names a model, but `checkpoint` is a group of train.py: Hydra would look for a choice RUN.
"""

ALIASES = {"eval": {"checkpoint": "checkpoints"}}


def spelled(config_name: str, arguments: list[str]) -> list[str]:
    """Command-line arguments with every alias replaced by the key it stands for."""
    aliases = ALIASES.get(config_name, {})
    parts = [argument.partition("=") for argument in arguments]
    return [aliases.get(key, key) + equals + value for key, equals, value in parts]
