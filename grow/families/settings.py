"""Configuration of a model: one dataclass for each family, with Grow's names of the sizes. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from grow.common.checks import LARGEST_SIZE, at_least_one, from_to, not_negative, positive
from grow.common.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class ArchitectureSettings:
    """What is trained: a model by its sizes, or one that is derived from another model."""

    name: str
    grown_from: str | None = None
    """Hub id, checkpoint or GGUF file of the model this one grows from, unless `growth.source` names another."""


@dataclass(kw_only=True, slots=True)
class ScaledSettings(ArchitectureSettings):
    """The architecture of another model with its sizes multiplied by `scale`, everything else as it is there.

    The other model is `grown_from`, or what `growth.source` names where that is null.
    """


@dataclass(kw_only=True, slots=True)
class ModelSettings(ArchitectureSettings):
    """The architecture: a family and its sizes."""

    family: ClassVar[str] = ""  # transformers' model_type

    vocab_size: int
    max_positions: int
    layers: int
    embed: int
    """Width of the residual stream."""
    heads: int
    head_dim: int
    ffn: int
    """Hidden width of a feed-forward block (of gate and of up each, where it has both)."""
    tied_head: bool
    """Whether the unembedding is the embedding table."""
    init_std: float = 0.02
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    stock: dict[str, Any] = field(default_factory=dict)
    """Other attributes of the family's stock configuration by the names that they have there, for example
    +model.stock.attention_bias=true or '+model.stock.rope_parameters={rope_type: linear, factor: 2}'."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "max_positions", "layers", "embed", "heads", "head_dim", "ffn"):
            at_least_one(f"model.{name}", getattr(self, name), LARGEST_SIZE)
        positive("model.init_std", self.init_std)
        for name in ("bos_id", "eos_id", "pad_id"):
            not_negative(f"model.{name}", getattr(self, name))
        if self.pad_id is not None and self.pad_id >= self.vocab_size:  # the embedding has a row for it
            raise ConfigError(
                f"model.pad_id={self.pad_id}: expected null, or an id below model.vocab_size={self.vocab_size}."
            )
        if self.family not in ("llama", "mixtral") and self.embed != self.heads * self.head_dim:
            raise ConfigError(
                f"model.embed={self.embed}: a {self.family} model needs heads x head_dim = "
                f"{self.heads} x {self.head_dim} = {self.heads * self.head_dim}. Change one of the three."
            )


@dataclass(kw_only=True, slots=True)
class ImportCheckpointConfig:
    """scripts/import_checkpoint.py: a checkpoint of any format in, a stock model directory out."""

    source: str
    """GGUF file, directory of pickled .bin or safetensors weights, or hub id (NAME or NAME@REVISION)."""
    output: str
    """Directory to make."""


def _check_positive(model: ModelSettings, *names: str) -> None:
    for name in names:
        positive(f"model.{name}", getattr(model, name))


def _check_groups(model: "OlmoSettings | Olmo2Settings | LlamaSettings") -> None:
    if model.kv_heads < 1 or model.heads % model.kv_heads:
        raise ConfigError(f"model.kv_heads={model.kv_heads}: expected a divisor of model.heads={model.heads}.")


@dataclass(kw_only=True, slots=True)
class OptSettings(ModelSettings):
    """OPT (arXiv 2205.01068): learned positions, ReLU, biases, LayerNorm."""

    family: ClassVar[str] = "opt"

    pre_norm: bool = True
    """False for the hub's opt-350m, which normalises after each residual addition and has no final norm."""
    word_embed: int | None = None
    """Width of the embedding table where it differs from `embed` (hub opt-350m: 512, with projections in and out)."""
    dropout: float = 0.1

    def __post_init__(self) -> None:
        ModelSettings.__post_init__(self)
        at_least_one("model.word_embed", self.word_embed, LARGEST_SIZE)
        from_to("model.dropout", self.dropout, 0, 1)


@dataclass(kw_only=True, slots=True)
class GptNeoxSettings(ModelSettings):
    """GPT-NeoX as in Pythia (arXiv 2304.01373): fused QKV, parallel residual, partial rotary, biases."""

    family: ClassVar[str] = "gpt_neox"

    rotary_fraction: float = 0.25
    """Fraction of head_dim that is rotated."""
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        ModelSettings.__post_init__(self)
        _check_positive(self, "rotary_fraction", "rope_theta")
        from_to("model.rotary_fraction", self.rotary_fraction, 0, 1)


@dataclass(kw_only=True, slots=True)
class OlmoSettings(ModelSettings):
    """OLMo-1 (arXiv 2402.00838): LayerNorm without gain or bias, SwiGLU, no biases."""

    family: ClassVar[str] = "olmo"

    kv_heads: int
    clip_qkv: float | None = None
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        ModelSettings.__post_init__(self)
        _check_groups(self)
        _check_positive(self, "rope_theta", *(["clip_qkv"] if self.clip_qkv is not None else []))


@dataclass(kw_only=True, slots=True)
class Olmo2Settings(ModelSettings):
    """OLMo-2 (arXiv 2501.00656): RMSNorm on each sublayer's output and on whole queries and keys."""

    family: ClassVar[str] = "olmo2"

    kv_heads: int
    norm_eps: float = 1e-6
    rope_theta: float = 500_000.0

    def __post_init__(self) -> None:
        ModelSettings.__post_init__(self)
        _check_groups(self)
        _check_positive(self, "norm_eps", "rope_theta")


@dataclass(kw_only=True, slots=True)
class LlamaSettings(ModelSettings):
    """Llama (arXiv 2302.13971): RMSNorm, SwiGLU, rotary positions, grouped queries; head_dim is free."""

    family: ClassVar[str] = "llama"

    kv_heads: int
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        ModelSettings.__post_init__(self)
        _check_groups(self)
        _check_positive(self, "norm_eps", "rope_theta")


def _check_experts(model: "MixtralSettings | FlexOlmoSettings") -> None:
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


MODEL_SETTINGS = (
    OptSettings,
    GptNeoxSettings,
    OlmoSettings,
    Olmo2Settings,
    LlamaSettings,
    MixtralSettings,
    FlexOlmoSettings,
)
