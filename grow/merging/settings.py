"""Configuration of the merging package. Imports nothing heavy."""

from dataclasses import dataclass, field

from grow.common.checks import at_least_one, not_empty, one_of, positive
from grow.common.errors import ConfigError

OF = ("delta", "weights")
THIN = ("none", "random", "largest", "middle", "ranked")
SCOPES = ("model", "tensor")
RESCALE = ("none", "unbiased")
ELECT = ("none", "mass", "count")
COMBINE = ("sum", "mean", "agreeing", "slerp", "karcher", "stock", "variance")

DRAWN = ("random", "ranked")
BY_THRESHOLD = ("largest", "middle")
GEOMETRIC = ("slerp", "karcher", "stock")
"""Combinations whose coefficients come from norms and angles of whole tensors."""
_UNWEIGHTED = ("stock", "variance")
_OF_WEIGHTS = ("sum", "mean", "slerp", "karcher")
_ELECTABLE = ("sum", "mean", "agreeing", "variance")


@dataclass(kw_only=True, slots=True)
class MergingSettings:
    """How models are merged: theta_0 + scale * combine_t(w_t * elect(thin(theta_t - theta_0)))."""

    name: str
    reference: str = ""
    """Paper the preset comes from."""
    of: str = "delta"
    """What is merged: delta, the differences from the base; weights, the models themselves, without a base."""
    thin: str = "none"
    """What is left of each delta: none drops nothing; random (DARE); largest (TIES); middle, all but the largest
    `outliers` and the smallest (breadcrumbs); ranked, random with less drop for larger ones of a row (DELLA)."""
    drop: float | None = None
    """Share of the elements that goes; what other projects call density is 1 - drop."""
    scope: str | None = None
    """largest, middle: elements are compared over the whole model or within each tensor."""
    outliers: float | None = None
    """middle: share of the elements that goes because they are the largest; a part of `drop`."""
    spread: float | None = None
    """ranked: drop probabilities of a row run evenly over drop -/+ spread / 2, the largest element's is the lowest."""
    rescale: str = "none"
    """random, ranked: unbiased divides what is kept by its probability of being kept; none leaves it."""
    elect: str = "none"
    """Sign that each element must have: none; mass, that of the deltas' sum; count, that of their signs' sum."""
    combine: str = "sum"
    """sum; mean, weights to one; agreeing, mean of those of the elected sign; slerp of two; karcher; stock (angle of
    the deltas); variance (SCE)."""
    scale: float = 1.0
    """Factor of the merged delta; below 0 it unlearns."""
    weights: list[float] | None = None
    """Weight of each model; null is 1 for all. slerp of [1 - t, t] is at t."""
    seed: int = 0
    """Seed of what random and ranked thinning draw."""
    unrelated: bool = False
    """Merge models although they show no common ancestor."""

    def __post_init__(self) -> None:
        for key, choices in (("of", OF), ("thin", THIN), ("rescale", RESCALE), ("elect", ELECT), ("combine", COMBINE)):
            one_of(f"merging.{key}", getattr(self, key), choices)
        if self.scope is not None:
            one_of("merging.scope", self.scope, SCOPES)
        self._refuse_meaningless()
        self._require()
        self._check_values()

    def _refuse_meaningless(self) -> None:
        """Refuse a field that has no meaning for the other fields' choices."""
        weights, selects = self.of == "weights", self.thin != "none" or self.combine == "variance"
        meaningless = {
            "thin": (weights or self.combine in GEOMETRIC or self.combine == "variance") and self.thin != "none",
            "combine": weights and self.combine not in _OF_WEIGHTS,
            "scale": weights and self.scale != 1,
            "drop": self.drop is not None and not selects,
            "scope": self.scope is not None and self.thin not in BY_THRESHOLD,
            "outliers": self.outliers is not None and self.thin != "middle",
            "spread": self.spread is not None and self.thin != "ranked",
            "rescale": self.rescale != "none" and self.thin not in DRAWN,
            "seed": self.seed != 0 and self.thin not in DRAWN,
            "elect": self.elect != "none" and (weights or self.combine not in _ELECTABLE),
            "weights": self.weights is not None and self.combine in _UNWEIGHTED,
        }
        for key in (key for key, refused in meaningless.items() if refused):
            raise ConfigError(
                f"merging.{key}={getattr(self, key)}: has no meaning with merging.of={self.of}, thin={self.thin}, "
                f"combine={self.combine}. Leave it out, or choose others of these."
            )

    def _require(self) -> None:
        needed = {
            "drop": self.drop is None and (self.thin != "none" or self.combine == "variance"),
            "scope": self.scope is None and self.thin in BY_THRESHOLD,
            "outliers": self.outliers is None and self.thin == "middle",
            "spread": self.spread is None and self.thin == "ranked",
        }
        for key in (key for key, missing in needed.items() if missing):
            raise ConfigError(f"merging.{key}: needed by merging.thin={self.thin}, combine={self.combine}. Set it.")
        if self.combine == "agreeing" and self.elect == "none":
            raise ConfigError("merging.combine=agreeing: agrees with an elected sign. Set merging.elect=mass or count.")

    def _check_values(self) -> None:
        if self.drop is not None and not 0 <= self.drop < 1:
            raise ConfigError(f"merging.drop={self.drop}: expected a share in [0, 1).")
        if self.outliers is not None and not 0 <= self.outliers <= (self.drop or 0):
            raise ConfigError(f"merging.outliers={self.outliers}: expected a share between 0 and merging.drop.")
        if self.spread is not None and self.drop is not None:
            low, high = self.drop - self.spread / 2, self.drop + self.spread / 2
            if self.spread < 0 or low < 0 or high >= 1:
                raise ConfigError(
                    f"merging.spread={self.spread}: expected probabilities drop -/+ spread / 2 in [0, 1), found "
                    f"{low:g} to {high:g}."
                )
        is_mean = self.combine != "sum"
        if self.weights is not None and is_mean and (min(self.weights, default=0) < 0 or sum(self.weights) <= 0):
            raise ConfigError(
                f"merging.weights={self.weights}: merging.combine={self.combine} is a mean; expected weights of 0 or "
                "more, not all 0."
            )

    def check_models(self, models: int, key: str = "models") -> None:
        """Refuse a number of models that does not fit.

        Raises:
            ConfigError: naming the number expected.
        """
        if self.weights is not None and len(self.weights) != models:
            raise ConfigError(
                f"merging.weights: expected one weight for each of the {models} models, found {len(self.weights)}."
            )
        if self.combine == "slerp" and models != 2:
            raise ConfigError(f"{key}: merging.combine=slerp is between two models, found {models}.")
        if self.combine in ("karcher", "stock", "variance") and models < 2:
            raise ConfigError(f"{key}: merging.combine={self.combine} needs two models or more, found {models}.")


def check_base(base: str | None, of: str) -> None:
    """Refuse a base where nothing is compared with one, and its absence where something is.

    Raises:
        ConfigError: saying which.
    """
    if of == "delta" and base is None:
        raise ConfigError("base: expected the model that all models were tuned from. Name it, base=DIR.")
    if of == "weights" and base is not None:
        raise ConfigError(
            f"base={base}: merging.of=weights merges models without a base; the first gives configuration, tokenizer "
            "and dtype. Leave base out."
        )


@dataclass(kw_only=True, slots=True)
class MergeConfig:
    """scripts/merge.py: a base and models tuned from it in, one model directory out."""

    models: list[str]
    """Run directories, model directories, hub ids (NAME@REVISION), .safetensors files, .pt state dicts."""
    output: str
    merging: MergingSettings
    base: str | None = None
    """Model that all were tuned from; it gives configuration, tokenizer and dtype."""
    workers: int | None = None
    """Weight files made at the same time; null takes one for each core, up to 8."""
    shard_gb: float = 5.0
    """Most gigabytes of one weight file."""

    def __post_init__(self) -> None:
        not_empty("models", self.models)
        at_least_one("workers", self.workers)
        positive("shard_gb", self.shard_gb)
        check_base(self.base, self.merging.of)


@dataclass(kw_only=True, slots=True)
class SweepMergesConfig:
    """scripts/sweep_merges.py: held-out loss of every data source at each scale and drop."""

    models: list[str]
    """Models, as scripts/merge.py takes them."""
    corpus: str
    """Directory of token shards whose held-out split is measured."""
    table: str
    """Directory for sweep.csv and sweep.png; nothing else is kept."""
    merging: MergingSettings
    base: str | None = None
    """Model that all were tuned from."""
    scale: list[float] = field(default_factory=lambda: [1.0])
    """Values of merging.scale to try."""
    drop: list[float] | None = None
    """Values of merging.drop to try; null takes the preset's."""
    output: str | None = None
    """Directory for the best merge; null keeps none."""
    best_by: str | None = None
    """Name of the data source that chooses the best; null takes the mean over all."""
    sequence_length: int = 128
    """Tokens of one sequence."""
    tokens: int = 16384
    """Held-out tokens of each source: one half chooses, the other half scores what was chosen."""
    micro_batch: int = 8
    """Sequences of one forward pass."""

    def __post_init__(self) -> None:
        for key in ("models", "scale", "drop"):
            if (listed := getattr(self, key)) is not None:
                not_empty(key, listed)
        for key in ("sequence_length", "tokens", "micro_batch"):
            at_least_one(key, getattr(self, key))
        check_base(self.base, self.merging.of)


@dataclass(kw_only=True, slots=True)
class ExtractPluginConfig:
    """scripts/extract_plugin.py: what tuning added to a base, as a LoRA in peft's format."""

    base: str
    """Model that the other was tuned from."""
    tuned: str
    """The tuned model; `model` on the command line."""
    output: str
    rank: int = 16
    """Largest rank of each matrix's LoRA."""

    def __post_init__(self) -> None:
        at_least_one("rank", self.rank)
