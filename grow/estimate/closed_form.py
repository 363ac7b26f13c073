"""Memory of a GPU by part, hours and disk of a run, from the counts of its model. Arithmetic only.

    model states     Rajbhandari et al., "ZeRO", arXiv 1910.02054, sections 3.1 and 5: of the w + g + m + o bytes of
                     each parameter (weights, gradients, float32 masters, Adam's moments) stage 1 divides m + o by
                     the number of GPUs, stage 2 also g, stage 3 also w
    activations      Korthikanti et al., arXiv 2205.05198, section 4.1, count s b h (34 + 5 a s / h) bytes for each
                     layer of GPT in 16 bit. Here no attention matrix is kept (flash attention keeps 4 bytes for each
                     head instead of 5 a s), and what is kept depends on family and precision: the table below
    loss             never full logits: see `grow.training.step.objective`
    hours            FLOPs / (GPUs x peak x MFU)

P parameters, h width, b sequences of s tokens a micro-batch, a heads, V vocabulary, N GPUs.
"""

import math
from dataclasses import asdict, dataclass

from grow.averaging.cadence import AveragingPlan
from grow.common.errors import ConfigError
from grow.distributed.settings import STRATEGIES
from grow.training.checkpoint_size import checkpoint_bytes
from grow.training.settings import PRECISIONS, ZERO_BUCKET_ELEMENTS, CheckpointSettings

_EXIT_SECONDS = 30  # to leave the process group and end the processes
_LIVE_ELEMENTS_ZERO3 = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters: most that are gathered at one time

# Bytes that autograd keeps for each token and layer without compilation (with it, fewer): for each element of the
# width, of the queries, of the keys (values included), of the feed-forward. Each line is a sum over kept tensors (norm
# inputs, norm outputs, what each Linear reads, queries, keys, values, attention's output, gate, up and their product);
# autocast keeps one bfloat16 copy a Linear of what it reads. tests/estimate/test_estimate.py counts them again.
_KEPT = {
    "llama": {"fp32": (24, 8, 8, 16), "bf16": (26, 4, 4, 8), "bf16_weights": (16, 4, 4, 8)},
    "olmo": {"fp32": (16, 8, 8, 16), "bf16": (18, 4, 4, 8), "bf16_weights": (12, 4, 4, 8)},
    "olmo2": {"fp32": (24, 16, 16, 16), "bf16": (26, 12, 12, 8), "bf16_weights": (20, 12, 12, 8)},
    "gpt_neox": {"fp32": (24, 8, 8, 8), "bf16": (14, 4, 4, 4), "bf16_weights": (12, 4, 4, 4)},
    "opt": {"fp32": (16, 8, 8, 4), "bf16": (16, 4, 4, 2), "bf16_weights": (8, 4, 4, 2)},
}


def require_known_activations(family: str) -> None:
    """Refuse a family whose activations are not in the table: mixtures of experts, and dense ones not yet counted.

    Raises:
        ConfigError: the family is not in the table.
    """
    if family not in _KEPT:
        raise ConfigError(
            f"model: expected a dense model ({', '.join(sorted(_KEPT))}), found {family}. The activations of mixtures "
            "of experts are not in the estimate's table, nor those of other families; try a run of a few steps instead."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Parameters, FLOPs and sizes of an architecture. A tied head counts with the embedding."""

    family: str
    parameters: int
    embedding: int
    """Parameters of the tables of tokens and positions."""
    head: int
    block: int
    """Parameters of the largest decoder block."""
    linear: int
    """Weights inside the blocks that activations are multiplied with."""
    flops_per_token: int
    layers: int
    embed: int
    queries: int
    """heads x head_dim."""
    keys: int
    """kv_heads x head_dim."""
    heads: int
    ffn: int
    vocabulary: int
    dropout: bool = False

    @property
    def body(self) -> int:
        return self.parameters - self.embedding - self.head


@dataclass(frozen=True, kw_only=True, slots=True)
class StateBytes:
    """Bytes of each parameter before anything is divided among GPUs: ZeRO's w, g, m and o."""

    weights: int
    gradients: int
    masters: int
    moments: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes on one GPU, by part."""

    weights: float
    gradients: float
    masters: float
    moments: float
    activations: float = 0.0
    autocast_copies: float = 0.0
    loss: float = 0.0
    communication: float = 0.0

    @property
    def total(self) -> float:
        return sum(asdict(self).values())


MemoryTable = dict[str, dict[str, Memory | None]]
"""Strategy -> precision -> memory of one GPU."""


def allowed(kind: str, precision: str) -> bool:
    """Return whether train.py runs this precision under this strategy: bfloat16 weights need ZeRO's masters."""
    return precision != "bf16_weights" or kind.startswith("zero")


def state_bytes(kind: str, precision: str) -> StateBytes:
    """Return the bytes that Grow keeps for each parameter.

    DeepSpeed keeps masters even of float32 weights, and sums gradients in float32.
    """
    return StateBytes(
        weights=2 if precision == "bf16_weights" else 4,
        gradients=4,
        masters=4 if kind.startswith("zero") else 0,
        moments=8,
    )


def model_states(parameters: int, kind: str, gpus: int, each: StateBytes) -> Memory:
    """Return the bytes of weights, gradients and optimizer state on one of `gpus` GPUs (ZeRO, figure 1).

    FSDP2 divides like ZeRO's stage 3.
    """
    stage = {"single": 0, "ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp2": 3}[kind]
    return Memory(
        weights=parameters * each.weights / (gpus if stage >= 3 else 1),
        gradients=parameters * each.gradients / (gpus if stage >= 2 else 1),
        masters=parameters * each.masters / (gpus if stage >= 1 else 1),
        moments=parameters * each.moments / (gpus if stage >= 1 else 1),
    )


def activation_bytes(counts: Counts, precision: str, tokens: int) -> int:
    """Return the bytes that the blocks keep for the backward pass of one micro-batch of `tokens` = b s tokens."""
    width, queries, keys, ffn = _KEPT[counts.family][precision]
    per_token = width * counts.embed + queries * counts.queries + keys * counts.keys + ffn * counts.ffn
    per_token += 4 * counts.heads  # flash attention's log-sum-exp
    per_token += 2 * counts.embed * counts.dropout  # two masks of one byte
    return counts.layers * per_token * tokens


def loss_bytes(counts: Counts, precision: str, tokens: int, rows: int) -> int:
    """Return the peak bytes of the loss: one chunk's logits and float32 softmax, gradients of hidden states and head.

    Args:
        counts: Counts of the model.
        precision: Precision of the run.
        tokens: Tokens of one micro-batch.
        rows: Rows of one chunk; 0 for plain full logits, with their copy, softmax and gradient.
    """
    product = 4 if precision == "fp32" else 2
    if rows == 0:
        return tokens * counts.vocabulary * (12 if product == 4 else 16)
    wide = 2 if precision == "bf16_weights" else 4  # bytes of hidden states and head
    head = counts.vocabulary * counts.embed * (wide + (product if product != wide else 0))
    return rows * counts.vocabulary * (product + 4) + head + tokens * counts.embed * wide


def communication_bytes(counts: Counts, kind: str, each: StateBytes) -> int:
    """Return the bytes of the buckets that gradients travel in and of weights that are gathered for the moment.

    DDP's buckets are the gradients themselves. ZeRO-1 and -2 fill one bucket while another travels. ZeRO-3 has one
    bucket, and gathers weights up to DeepSpeed's limit. FSDP2 gathers what is around the blocks, a block and the next.
    """
    bucket = min(ZERO_BUCKET_ELEMENTS, counts.parameters)
    around = counts.parameters - counts.layers * counts.block
    if kind == "zero1":
        return 2 * bucket * each.gradients
    if kind == "zero2":
        return 2 * bucket * each.weights
    if kind == "zero3":
        return (bucket + min(_LIVE_ELEMENTS_ZERO3, counts.parameters)) * each.weights
    if kind == "fsdp2":
        return (around + 2 * counts.block) * each.weights + (around + counts.block) * each.gradients
    return 0


def memory(counts: Counts, kind: str, precision: str, *, gpus: int, tokens: int, rows: int) -> Memory:
    """Return all bytes on one GPU. A run on one GPU shares nothing, whatever the strategy: train.py uses the plain one.

    Args:
        counts: Counts of the model.
        kind: Kind of the strategy, e.g. zero2.
        precision: Precision of the run.
        gpus: Number of GPUs, N.
        tokens: Tokens of one micro-batch, b s.
        rows: Rows of one chunk of the loss.
    """
    kind = "single" if gpus == 1 else kind
    each = state_bytes(kind, precision)
    states = model_states(counts.parameters, kind, 1 if kind == "single" else gpus, each)
    return Memory(
        weights=states.weights,
        gradients=states.gradients,
        masters=states.masters,
        moments=states.moments,
        activations=activation_bytes(counts, precision, tokens),
        autocast_copies=2 * counts.linear if precision == "bf16" else 0,
        loss=loss_bytes(counts, precision, tokens, rows),
        communication=communication_bytes(counts, kind, each),
    )


def memory_table(counts: Counts, *, gpus: int, tokens: int, rows: int) -> MemoryTable:
    """Return the memory for every strategy and precision; None where train.py refuses the pair."""
    return {
        kind: {
            precision: memory(counts, kind, precision, gpus=gpus, tokens=tokens, rows=rows)
            if allowed(kind, precision)
            else None
            for precision in PRECISIONS
        }
        for kind in STRATEGIES
    }


def hours(flops: float, *, gpus: int, peak_flops: float, mfu: float) -> float:
    """Return the hours that so many FLOPs take at a share `mfu` of each GPU's peak."""
    return flops / (gpus * peak_flops * mfu) / 3600


def grace_seconds(checkpoint: int, step_seconds: float, bytes_per_second: float) -> int:
    """Return the seconds that a preempted run needs from the signal to its exit, in whole minutes.

    It ends its step and the next one, waits for a checkpoint that is being written, and writes another one.
    """
    return 60 * math.ceil((2 * step_seconds + 2 * checkpoint / bytes_per_second + _EXIT_SECONDS) / 60)


def disk(
    parameters: int, settings: CheckpointSettings, max_tokens: int, averaging: AveragingPlan | None = None
) -> dict[str, int]:
    """Return the bytes of one checkpoint, of those kept at one time, of all that are written and of the final model.

    The window of an average counts in full. Of the permanent checkpoints only the newest one has it, unless asked for.
    """
    one = checkpoint_bytes(parameters, averaging)
    window = one - checkpoint_bytes(parameters, None)
    if settings.every_tokens is None:
        return {"checkpoint": one, "at_most_kept": 0, "written": 0, "model": 4 * parameters}
    permanent = max_tokens // settings.permanent_every_tokens if settings.permanent_every_tokens else 0
    written = math.ceil(max_tokens / settings.every_tokens)
    if settings.permanent_every_tokens:  # those that do not fall together with another
        written += permanent - max_tokens // math.lcm(settings.permanent_every_tokens, settings.every_tokens)
    kept = min(written, permanent + settings.keep_last + 1)
    without = 0 if settings.permanent_windows else max(0, kept - settings.keep_last - 2)
    at_most = one * kept - window * without
    return {"checkpoint": one, "at_most_kept": at_most, "written": one * written, "model": 4 * parameters}
