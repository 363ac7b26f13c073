"""Settings of the growth package: orthogonal fields, over which a paper is a preset. Imports nothing heavy."""

from dataclasses import dataclass, field

from grow.common.checks import from_to, not_negative, one_of, positive, seed_of_generators
from grow.common.errors import ConfigError

CHOICES = {
    "width": ("tile", "dealt", "drawn", "isometric", "filled", "padded"),
    "share": ("symmetric", "diagonal", "uneven", "rms", "none"),
    "depth": ("same", "stack", "top", "interpose", "overlap"),
    "new_layers": ("copied", "identity"),
    "join": ("none", "beside", "above", "experts"),
    "optimizer_state": ("exact", "asymmetric", "reset"),
    "dtype": ("source", "float32", "bfloat16"),
}

_MOST_DB = 300.0  # beyond it the noise is nothing, or all there is, in float32
_LARGEST_FACTOR = 65_536
_JOINS = "growth=join, join_above or branch_train_mix"


@dataclass(kw_only=True, slots=True)
class GrowthSettings:
    """How a bigger model is made from a smaller one."""

    name: str
    reference: str = ""
    """The paper this preset stands for."""
    source: str | None = None
    """Checkpoint directory, GGUF file, run directory or hub id to grow from; overrides the model's `grown_from`."""
    sources: list[str] | None = None
    """Several checkpoints to join into one model, instead of `source`."""
    join: str = "none"
    """How several sources become one: `beside` puts them side by side, with widths added and logits averaged; `above`
    stacks them, each grown to the target's width, with layers added; `experts` makes experts of them in turn; `none`
    takes a single source."""
    weights: list[float] | None = None
    """Weight of each source's logits where they are joined side by side; null averages them."""
    balance: bool = False
    """Whether the residual streams of sources side by side are scaled to equal size, so that one norm fits all."""
    width: str = "tile"
    """Which source element each element of a wider axis stands for (pictures in `grow.growth.maps`): `tile` in whole
    copies; `dealt` in shuffled rounds; `drawn` at random; `isometric` dealt, scaled so that lengths stay the same;
    `filled` in whole copies and a filler; `padded` once, and a filler."""
    share: str = "symmetric"
    """How the copies of an input share its weight: `symmetric` gives each 1/n; `diagonal` gives copy i to output
    copy i; `uneven` gives a copy sampled for each weight `largest_share` of it; `rms` keeps the RMS of what is read,
    not its value; `none` allows no copies: the target has the source's sizes."""
    largest_share: float = 0.75
    """What the favoured copy of an input carries under `share=uneven`; the others share the rest."""
    snr_db: float | None = None
    """Power of a divided block over that of the noise added to it, in dB; null adds none."""
    next_layer: bool = False
    """Whether new outputs come from the layer above instead of the same layer (AKI)."""
    depth: str = "same"
    """Which source layer each target layer starts from (pictures in `grow.growth.depth`)."""
    new_layers: str = "copied"
    """Whether a layer that repeats another one starts `copied` or, its last projections zero, as the `identity`."""
    redrawn: float = 0.0
    """Fraction of each new expert's hidden units that are sampled from a normal instead of copied."""
    expert_noise: float = 0.0
    """Standard deviation of the noise on each new expert's matrices, over that of the matrix's elements."""
    router_std: float = 0.02
    """Standard deviation of the weights of a new router."""
    optimizer_state: str = "reset"
    """Adam's state at the start of a run, where the source is a run's checkpoint: `reset`, a new one; `exact`, by the
    dual map; `asymmetric`, exact for the first copy of each unit and zero for new ones."""
    dtype: str = "source"
    """Type of the grown weights: `source` keeps each tensor's own; `float32` makes a half-precision source exact to
    rounding; `bfloat16` rounds."""
    seed: int = 0
    """Seed of random index maps, uneven shares and noise."""

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            one_of(f"growth.{name}", getattr(self, name), choices)
        if not 0 < self.largest_share < 1:
            raise ConfigError(
                f"growth.largest_share={self.largest_share}: expected more than 0 and less than 1; "
                "growth.share=diagonal gives one copy all of it."
            )
        from_to("growth.redrawn", self.redrawn, 0, 1)
        not_negative("growth.expert_noise", self.expert_noise)
        positive("growth.router_std", self.router_std)
        seed_of_generators("growth.seed", self.seed)
        if self.snr_db is not None:
            from_to("growth.snr_db", self.snr_db, -_MOST_DB, _MOST_DB)
        if self.weights is not None and self.join != "beside":
            raise ConfigError(f"growth.weights={self.weights}: growth={self.name} reads none; growth=join does.")
        for weight in self.weights or ():
            not_negative("growth.weights", weight)
        if self.weights is not None and not any(self.weights):
            raise ConfigError(f"growth.weights={self.weights}: expected at least one above 0.")
        if self.sources is not None:
            self._check_sources(self.sources)

    def _check_sources(self, sources: list[str]) -> None:
        if self.join == "none":
            raise ConfigError(
                f"growth.sources={sources}: growth={self.name} grows one model, growth.source=DIRECTORY_OR_HUB_ID. "
                f"Several are joined by {_JOINS}."
            )
        if self.source is not None or len(sources) < 2:
            raise ConfigError(
                f"growth.sources={sources}: expected two or more, and no growth.source besides; one source is "
                "growth.source=DIRECTORY_OR_HUB_ID."
            )
        if self.weights is not None and len(self.weights) != len(sources):
            raise ConfigError(f"growth.weights={self.weights}: expected one for each of {len(sources)} sources.")

    @property
    def shares_of_sources(self) -> list[float]:
        """Weight of each source's logits; 1 for a single one."""
        count = 1 if self.sources is None else len(self.sources)
        return self.weights or [1 / count] * count

    @property
    def breaks_symmetry(self) -> bool:
        """Whether copies of an input start unequal, so that training can drive them apart."""
        return self.snr_db is not None or self.share == "uneven" or self.next_layer or self.width == "padded"


@dataclass(kw_only=True, slots=True)
class ScaleSettings:
    """Factor on each size of a source, where no target model is named; below 1 only for a model from noise."""

    embed: float = 2
    heads: float = 2
    kv_heads: float | None = None
    """null: the same as `heads`, but a single key-value head stays single."""
    head_dim: float = 1
    ffn: float = 2
    layers: float = 1

    def __post_init__(self) -> None:
        for name in ("embed", "heads", "kv_heads", "head_dim", "ffn", "layers"):
            factor = getattr(self, name)
            if factor is not None and not 0 < factor <= _LARGEST_FACTOR:
                raise ConfigError(f"scale.{name}={factor:g}: expected a factor above 0 and up to {_LARGEST_FACTOR}.")

    def refuse_smaller(self) -> None:
        """Refuse factors below 1.

        Raises:
            ConfigError: a growth would have to make something smaller.
        """
        for name in ("embed", "heads", "kv_heads", "head_dim", "ffn", "layers"):
            factor = getattr(self, name)
            if factor is not None and factor < 1:
                raise ConfigError(
                    f"scale.{name}={factor:g}: expected a factor of at least 1, and of at most {_LARGEST_FACTOR}."
                )


@dataclass(kw_only=True, slots=True)
class LinkSettings:
    """One run of a chain, against the target that the command line names."""

    tokens: float
    """Tokens that it trains on, in proportion to the other links'; together they are trainer.max_tokens."""
    layers: float = 1.0
    """Its layers over the target's."""
    width: float = 1.0
    """Its embed, heads, kv_heads and ffn over the target's."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes given as numbers instead of those shares: {layers: 1}, or +chain.links.LINK.sizes.layers=1."""
    lr: float = 1.0
    """Its peak learning rate over optimizer.lr."""
    growth: str = "none"
    """Preset by which it is grown from the link before; none starts from noise."""
    trainable: str = "all"
    """What it trains: a choice of configs/trainable."""
    overrides: list[str] = field(default_factory=list)
    """Its other overrides of train.py; the command line of the chain overrules them, group by group."""


@dataclass(kw_only=True, slots=True)
class ChainSettings:
    """Runs that grow one from another, the last one being the target."""

    name: str
    reference: str
    """The paper this chain stands for."""
    links: dict[str, LinkSettings]
    """The links in their order, by name."""

    def __post_init__(self) -> None:
        for number, (name, link) in enumerate(self.links.items()):
            key = f"chain.links.{name}"
            for share in ("tokens", "layers", "width", "lr"):
                positive(f"{key}.{share}", getattr(link, share))
            if (link.growth == "none") != (number == 0):
                raise ConfigError(
                    f"{key}.growth={link.growth}: expected none for the first link, which starts from noise, and a "
                    "growth for every other."
                )
