"""Configuration of the training package. Imports nothing heavy."""

from dataclasses import dataclass, field, replace

from grow.common.checks import MOST_THREADS, at_least_one, not_negative, one_of, positive
from grow.common.errors import ConfigError

SCHEDULES = ("paper", "cosine", "wsd")
PRECISIONS = ("fp32", "bf16", "bf16_weights")
TRAINABLE = ("all", "new_layers", "submodel")
OBJECTIVES = ("next_token", "knowledge_inheritance")
OWN_SOURCE = "growth.source"  # objective.teacher: the model that the run grows from
COMPILE_MODES = ("none", "block", "model")
ZERO_BUCKET_ELEMENTS = 200_000_000  # reduced or gathered at a time: large enough to fill a network


@dataclass(kw_only=True, slots=True)
class OptimizerSettings:
    """AdamW with decoupled decay on matrices only (Loshchilov & Hutter, arXiv 1711.05101)."""

    name: str
    lr: float
    """Peak learning rate."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-8
    weight_decay: float = 0.1
    """Applied to matrices; biases, norm gains and embedding or position tables are not decayed."""
    max_grad_norm: float = 1.0
    """Global gradient norm above which gradients are scaled down; 0 never clips."""
    divide_grown_lr: bool = False
    """Divide a grown weight's learning rate by the number of copies of its inputs, and multiply its decay by it."""

    def __post_init__(self) -> None:
        positive("optimizer.lr", self.lr)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optimizer.betas={self.betas}: expected two numbers in [0, 1).")
        positive("optimizer.eps", self.eps)
        for name in ("max_grad_norm", "weight_decay"):
            not_negative(f"optimizer.{name}", getattr(self, name))


@dataclass(kw_only=True, slots=True)
class ScheduleSettings:
    """Learning rate against tokens, as a multiple of the peak. Lengths are tokens or shares of trainer.max_tokens."""

    name: str
    kind: str
    """paper: linear warm-up, cosine decay to `final_fraction`, then constant. cosine: the same, decaying to the end of
    the run. wsd: constant after warm-up, linear decay at the end."""
    warmup_tokens: int | None = None
    warmup_fraction: float = 0.01
    """Used where warmup_tokens is null: fraction of trainer.max_tokens."""
    decay_tokens: int | None = None
    decay_fraction: float = 1.0
    """Used where decay_tokens is null. paper: fraction of the run at which the decay ends; wsd: fraction it takes."""
    final_fraction: float = 0.1
    """What is left of the peak after the decay."""

    def __post_init__(self) -> None:
        one_of("schedule.kind", self.kind, SCHEDULES)
        for name in ("warmup_fraction", "decay_fraction", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"schedule.{name}={getattr(self, name)}: expected a share between 0 and 1.")
        for name in ("warmup_tokens", "decay_tokens"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"schedule.{name}={getattr(self, name)}: expected 0 or more tokens, or null.")
        if self.kind == "cosine" and (self.decay_tokens is not None or self.decay_fraction != 1):
            raise ConfigError(
                "schedule.decay_tokens and schedule.decay_fraction: a cosine decays to the end of the run. Use "
                "schedule=paper for one that ends earlier."
            )

    def warmup(self, max_tokens: int) -> float:
        """Return the tokens of the warm-up in a run of this length."""
        return self.warmup_fraction * max_tokens if self.warmup_tokens is None else self.warmup_tokens


@dataclass(kw_only=True, slots=True)
class ObjectiveSettings:
    """The loss, over chunks of rows, so that full logits never exist."""

    name: str
    kind: str = "next_token"
    """next_token: cross-entropy. knowledge_inheritance: the same, mixed with the divergence from a teacher (Qin et al.
    2022, arXiv 2105.13880)."""
    chunk_rows: int | None = None
    """Token rows whose logits exist at the same time; null fits them to the device, 0 computes all logits at once."""
    teacher: str | None = None
    """knowledge_inheritance: run, directory or hub id of the teacher; growth.source means the model that is grown."""
    alpha: float = 1.0
    """Share of the teacher's term at the start; 1 - alpha is the share of the cross-entropy."""
    alpha_decay: float = 0.0
    """What alpha loses, in proportion to tokens, over the whole run; it does not fall below 0."""
    temperature: float = 1.0
    """Number that the logits of teacher and student are divided by for the divergence, tau."""

    def __post_init__(self) -> None:
        one_of("objective.kind", self.kind, OBJECTIVES)
        if (self.kind == "knowledge_inheritance") != (self.teacher is not None):
            raise ConfigError(
                "objective.teacher is the model that objective=knowledge_inheritance learns from, and the other "
                f"objectives have none; found objective={self.name} and objective.teacher={self.teacher}. Give "
                "objective.teacher=RUN_OR_DIRECTORY_OR_HUB_ID, or objective.teacher=growth.source."
            )
        if not 0 < self.alpha <= 1:
            raise ConfigError(f"objective.alpha={self.alpha}: expected a share above 0 and up to 1.")
        not_negative("objective.alpha_decay", self.alpha_decay)
        positive("objective.temperature", self.temperature)
        if (self.chunk_rows or 0) < 0:
            raise ConfigError(f"objective.chunk_rows={self.chunk_rows}: expected 0 or more rows, or null.")


@dataclass(kw_only=True, slots=True)
class ExpertsSettings:
    """What keeps the experts of a mixture in use while it trains; dense models ignore it.

    Noisy gates with weights of their own and selection by a learned bias (DeepSeek-V3) are not offered: a stock
    Mixtral, FlexOlmo or OLMoE cannot hold them and would route differently once exported.
    """

    name: str
    balance: float = 0.01
    """Weight of the balance loss (arXiv 2101.03961); 0 leaves it out. The exported model gets the same strength."""
    z: float = 0.001
    """Weight of the mean square of the routers' logsumexp (arXiv 2202.08906); 0 leaves it out."""
    balance_over: str = "step"
    """step: loads of all ranks and the step's micro-batches so far (arXiv 2501.11873); micro_batch: of each alone."""

    def __post_init__(self) -> None:
        for name in ("balance", "z"):
            not_negative(f"experts.{name}", getattr(self, name))
        one_of("experts.balance_over", self.balance_over, ("step", "micro_batch"))


@dataclass(kw_only=True, slots=True)
class TrainableSettings:
    """Which layers a step trains besides the final norm and the head. grow/training/step/trainable.py chooses them."""

    name: str
    kind: str
    """all; new_layers: those that the growth repeated; submodel: the top of a model of the bottom layers, whose depth
    each step samples."""
    block_layers: int = 3
    """submodel: layers that a step trains; sub-models are the bottom one, two, ... times as many layers."""

    def __post_init__(self) -> None:
        one_of("trainable.kind", self.kind, TRAINABLE)
        positive("trainable.block_layers", self.block_layers)

    @property
    def described(self) -> str:
        """What is trained, in words."""
        layers = {
            "all": "everything",
            "new_layers": "the layers that the growth adds",
            "submodel": f"the top {self.block_layers} layers of sub-models, one sampled for each step",
        }
        return layers[self.kind] + (", the final norm and the head" if self.kind != "all" else "")


@dataclass(kw_only=True, slots=True)
class TrainerSettings:
    """Length of a run, its batch, and how often it logs and validates. Lengths are in tokens."""

    name: str
    max_tokens: int
    tokens_per_step: int
    """Tokens of one optimizer step, over all ranks; the number of micro-batches follows from it."""
    micro_batch: int
    """Sequences that one rank computes at the same time."""
    accelerator: str = "auto"
    precision: str = "auto"
    """fp32; bf16: float32 weights, bfloat16 matrix products; bf16_weights: bfloat16 weights, float32 masters in the
    optimizer's shards (zero1, zero2 and zero3 only); auto: bf16 on a GPU, fp32 on a CPU, and in a run that is
    continued what it began with."""
    compile: str = "none"
    """none, block (compile each decoder block: seconds of start-up) or model (the whole trunk: minutes, fastest)."""
    log_every_steps: int = 10
    val_every_tokens: int
    val_tokens: int
    """Tokens of the held-out split that one validation reads, always the same ones."""
    max_skipped_steps: int = 5
    """Steps in a row that may be skipped because their gradient is not finite; then the run stops."""
    threads: int | None = None
    """CPU threads of one rank; null leaves the number to torch."""

    def __post_init__(self) -> None:
        one_of("trainer.precision", self.precision, (*PRECISIONS, "auto"))
        one_of("trainer.compile", self.compile, COMPILE_MODES)
        one_of("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu"))
        for name in (
            "max_tokens",
            "tokens_per_step",
            "micro_batch",
            "log_every_steps",
            "max_skipped_steps",
            "val_every_tokens",
            "val_tokens",
        ):
            positive(f"trainer.{name}", getattr(self, name))
        at_least_one("trainer.threads", self.threads, MOST_THREADS)


@dataclass(kw_only=True, slots=True)
class CheckpointSettings:
    """Checkpoints inside a run, from which the same command continues."""

    name: str
    every_tokens: int | None
    """Tokens between two checkpoints; null writes none."""
    every_fraction: float | None = None
    """Share of trainer.max_tokens between two checkpoints; used in place of every_tokens where it is given."""
    keep_last: int = 2
    permanent_every_tokens: int | None = None
    """Tokens between two checkpoints that are never deleted; null keeps none."""
    permanent_windows: bool = False
    """Whether they keep the averaging window for good; else only until a newer checkpoint exists."""
    background: bool = True
    """Whether to write while training goes on, from a copy in the host's memory."""

    def __post_init__(self) -> None:
        for name in ("every_tokens", "permanent_every_tokens"):
            if getattr(self, name) is not None:
                positive(f"checkpoint.{name}", getattr(self, name))
        positive("checkpoint.keep_last", self.keep_last)
        if self.every_fraction is not None and not 0 < self.every_fraction <= 1:
            raise ConfigError(f"checkpoint.every_fraction={self.every_fraction}: expected a share above 0 and up to 1.")
        if self.permanent_every_tokens is not None and self.every_tokens is None and self.every_fraction is None:
            raise ConfigError("checkpoint.permanent_every_tokens needs checkpoint.every_tokens: none are written.")

    def in_tokens(self, trainer: TrainerSettings) -> "CheckpointSettings":
        """Return these settings for a run, with `every_tokens` computed where `every_fraction` is given.

        Raises:
            ConfigError: an interval is shorter than one optimizer step.
        """
        given = self.every_fraction
        every = self.every_tokens if given is None else round(given * trainer.max_tokens)
        named = {
            "checkpoint.every_tokens" if given is None else f"checkpoint.every_fraction={given}, in tokens": every,
            "checkpoint.permanent_every_tokens": self.permanent_every_tokens,
        }
        for name, tokens in named.items():
            if tokens is not None and tokens < trainer.tokens_per_step:
                raise ConfigError(
                    f"{name}={tokens:,}: expected at least one step of trainer.tokens_per_step="
                    f"{trainer.tokens_per_step:,}; every step would write a checkpoint. Give a share of the run, e.g. "
                    "checkpoint.every_fraction=0.02, or more tokens."
                )
        return replace(self, every_tokens=every, every_fraction=None)

    def due(self, before: int, now: int) -> str | None:
        """Return which kind of checkpoint is due between two numbers of tokens: permanent, rolling or None."""
        if self.permanent_every_tokens and before // self.permanent_every_tokens < now // self.permanent_every_tokens:
            return "permanent"
        if self.every_tokens and before // self.every_tokens < now // self.every_tokens:
            return "rolling"
        return None


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """scripts/export.py: a run's checkpoint in, a stock model directory out."""

    source: str
    """RUN/checkpoints/step-...; or, to push it, a complete model directory such as RUN/model, RUN/average or a grown
    one."""
    output: str | None = None
    """Directory to make of a checkpoint."""
    hub: str | None = None
    """OWNER/NAME of the hub's repository to push to."""
    private: bool = True
    """Whether a repository that the push makes is private."""

    def __post_init__(self) -> None:
        if self.output is None and self.hub is None:
            raise ConfigError("expected output=DIRECTORY for a checkpoint, hub=OWNER/NAME for a model, or both.")
