"""Configuration of mixtures of experts: the sizes of their dense relatives, and those of the experts."""

from dataclasses import dataclass
from typing import ClassVar

from grow.common.checks import LARGEST_SIZE, at_least_one
from grow.common.errors import ConfigError
from grow.families.settings import LlamaSettings, Olmo2Settings, Qwen3Settings, check_positive


def _check_experts(model: "MixtralSettings | FlexOlmoSettings | Qwen3MoeSettings | OlmoeSettings") -> None:
    at_least_one("model.experts", model.experts, LARGEST_SIZE)
    if not 1 <= model.active_experts <= model.experts:
        raise ConfigError(
            f"model.active_experts={model.active_experts}: expected a number from 1 to model.experts={model.experts}."
        )


@dataclass(kw_only=True, slots=True)
class MixtralSettings(LlamaSettings):
    """Mixtral (arXiv 2401.04088): a Llama whose feed-forward blocks are experts; `ffn` is the width of each."""

    family: ClassVar[str] = "mixtral"

    experts: int
    active_experts: int
    """Experts that each token goes through."""

    def __post_init__(self) -> None:
        LlamaSettings.__post_init__(self)
        _check_experts(self)


@dataclass(kw_only=True, slots=True)
class FlexOlmoSettings(Olmo2Settings):
    """FlexOlmo (arXiv 2507.07024): an OLMo-2 whose feed-forward blocks are experts; `ffn` is the width of each."""

    family: ClassVar[str] = "flex_olmo"

    experts: int
    active_experts: int
    """Experts that each token goes through."""

    def __post_init__(self) -> None:
        Olmo2Settings.__post_init__(self)
        _check_experts(self)


@dataclass(kw_only=True, slots=True)
class Qwen3MoeSettings(Qwen3Settings):
    """Qwen3-MoE (arXiv 2505.09388): a Qwen3 whose feed-forward blocks are experts; `ffn` is the width of each."""

    family: ClassVar[str] = "qwen3_moe"

    experts: int
    active_experts: int
    """Experts that each token goes through."""

    def __post_init__(self) -> None:
        Qwen3Settings.__post_init__(self)
        _check_experts(self)


@dataclass(kw_only=True, slots=True)
class OlmoeSettings(Olmo2Settings):
    """OLMoE (arXiv 2409.02060): norms before sublayers, on whole queries and keys, and experts of width `ffn`."""

    family: ClassVar[str] = "olmoe"

    experts: int
    active_experts: int
    """Experts that each token goes through."""
    normalised_shares: bool = False
    """Whether the shares of a token's experts are scaled to add up to one."""
    clip_qkv: float | None = None

    def __post_init__(self) -> None:
        Olmo2Settings.__post_init__(self)
        _check_experts(self)
        check_positive(self, *(["clip_qkv"] if self.clip_qkv is not None else []))
