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
    free_head_dim: ClassVar[bool] = False  # whether heads x head_dim may differ from embed

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
        if not self.free_head_dim and self.embed != self.heads * self.head_dim:
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


def check_positive(model: ModelSettings, *names: str) -> None:
    """Refuse settings of a model that are not above zero."""
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
        check_positive(self, "rotary_fraction", "rope_theta")
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
        check_positive(self, "rope_theta", *(["clip_qkv"] if self.clip_qkv is not None else []))


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
        check_positive(self, "norm_eps", "rope_theta")


@dataclass(kw_only=True, slots=True)
class LlamaSettings(ModelSettings):
    """Llama (arXiv 2302.13971): RMSNorm, SwiGLU, rotary positions, grouped queries; head_dim is free."""

    family: ClassVar[str] = "llama"
    free_head_dim: ClassVar[bool] = True

    kv_heads: int
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        ModelSettings.__post_init__(self)
        _check_groups(self)
        check_positive(self, "norm_eps", "rope_theta")


@dataclass(kw_only=True, slots=True)
class MistralSettings(LlamaSettings):
    """Mistral (arXiv 2310.06825): a Llama that may attend to a window of the last tokens only."""

    family: ClassVar[str] = "mistral"

    sliding_window: int | None = None
    """Tokens that each token attends to; null for all before it."""

    def __post_init__(self) -> None:
        LlamaSettings.__post_init__(self)
        at_least_one("model.sliding_window", self.sliding_window, LARGEST_SIZE)


@dataclass(kw_only=True, slots=True)
class SmolLm3Settings(LlamaSettings):
    """SmolLM3: a Llama of which one layer in four has no rotary positions."""

    family: ClassVar[str] = "smollm3"
    free_head_dim: ClassVar[bool] = False

    layers_per_unrotated: int = 4
    """One layer without rotary positions follows so many, itself included."""

    def __post_init__(self) -> None:
        LlamaSettings.__post_init__(self)
        at_least_one("model.layers_per_unrotated", self.layers_per_unrotated, LARGEST_SIZE)


@dataclass(kw_only=True, slots=True)
class Qwen2Settings(LlamaSettings):
    """Qwen2 and Qwen2.5 (arXiv 2407.10671): a Llama with biases on queries, keys and values."""

    family: ClassVar[str] = "qwen2"
    free_head_dim: ClassVar[bool] = False


@dataclass(kw_only=True, slots=True)
class Qwen3Settings(LlamaSettings):
    """Qwen3 (arXiv 2505.09388): a Llama with an RMSNorm over each head's queries and keys."""

    family: ClassVar[str] = "qwen3"


@dataclass(kw_only=True, slots=True)
class Phi3Settings(MistralSettings):
    """Phi-3 (arXiv 2404.14219): a Llama with fused projections, windows and partial rotary positions."""

    family: ClassVar[str] = "phi3"
    free_head_dim: ClassVar[bool] = False

    rotary_fraction: float = 1.0
    """Fraction of head_dim that is rotated."""

    def __post_init__(self) -> None:
        MistralSettings.__post_init__(self)
        check_positive(self, "rotary_fraction")
        from_to("model.rotary_fraction", self.rotary_fraction, 0, 1)


@dataclass(kw_only=True, slots=True)
class Gpt2Settings(ModelSettings):
    """GPT-2 (Radford et al. 2019): learned positions, GELU, biases, LayerNorm."""

    family: ClassVar[str] = "gpt2"

    dropout: float = 0.0

    def __post_init__(self) -> None:
        ModelSettings.__post_init__(self)
        from_to("model.dropout", self.dropout, 0, 1)


@dataclass(kw_only=True, slots=True)
class Gemma2Settings(LlamaSettings):
    """Gemma 2 (arXiv 2408.00118): norms around each sublayer, every other layer with a window, capped scores."""

    family: ClassVar[str] = "gemma2"

    norm_eps: float = 1e-6
    query_scale: int | None = None
    """Scores are divided by its root; null for head_dim."""
    sliding_window: int = 4096
    """Tokens that each token attends to, in layers that have a window."""
    score_cap: float | None = 50.0
    """Bound of the attention scores, by a tanh; null for none."""
    logit_cap: float | None = 30.0
    """Bound of the logits, by a tanh; null for none."""

    def __post_init__(self) -> None:
        LlamaSettings.__post_init__(self)
        at_least_one("model.query_scale", self.query_scale, LARGEST_SIZE)
        at_least_one("model.sliding_window", self.sliding_window, LARGEST_SIZE)
        check_positive(self, *(name for name in ("score_cap", "logit_cap") if getattr(self, name) is not None))


@dataclass(kw_only=True, slots=True)
class Gemma3Settings(Gemma2Settings):
    """Gemma 3's text models (arXiv 2503.19786): five layers with a window to one without, norms on queries and keys."""

    family: ClassVar[str] = "gemma3_text"

    rope_theta: float = 1_000_000.0
    local_rope_theta: float = 10_000.0
    """Base of the rotary positions of layers with a window."""
    score_cap: float | None = None
    logit_cap: float | None = None

    def __post_init__(self) -> None:
        Gemma2Settings.__post_init__(self)
        check_positive(self, "local_rope_theta")


@dataclass(kw_only=True, slots=True)
class Olmo3Settings(Olmo2Settings):
    """OLMo-3 (arXiv 2512.13961): an OLMo-2 of which three layers in four attend to a window of the last tokens."""

    family: ClassVar[str] = "olmo3"

    sliding_window: int = 4096
    """Tokens that each token attends to, in layers that have a window."""

    def __post_init__(self) -> None:
        Olmo2Settings.__post_init__(self)
        at_least_one("model.sliding_window", self.sliding_window, LARGEST_SIZE)
