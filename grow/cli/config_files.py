"""Reads configuration files for Hydra: a number of tokens is written there as on the command line, 10M or 1e6."""

from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from grow.cli.spelling import is_number_of_tokens, tokens_in_digits


class _TokensInDigits(FileConfigSource):
    """Hydra's reader of files, whose numbers of tokens are in digits afterwards."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file; Hydra calls it for every file of a composition."""
        result = super().load_config(config_path)
        written = OmegaConf.to_container(result.config)
        read = _in_digits(written)
        if read != written or repr(read) != repr(written):  # 1e6 equals 1000000, which alone is an integer
            result.config = OmegaConf.create(read)
        return result


def read_tokens_of_files() -> None:
    """Let Hydra read configuration files with this module's reader."""
    Plugins.instance()  # registers Hydra's own reader, whose place ours takes
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = _TokensInDigits


def _in_digits(value: Any, key: str = "") -> Any:
    """Return a value of a file with every number of tokens in it in digits."""
    if isinstance(value, dict):
        return {name: _in_digits(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_in_digits(item, key) for item in value]
    if not is_number_of_tokens(key):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return tokens_in_digits(value) if isinstance(value, str) and "${" not in value else value
