"""The clock of a run: tokens. Steps, FLOPs and seconds are derived from it here and nowhere else."""

import time
from dataclasses import dataclass, field


def flops_per_token(*, matmul_parameters: int, layers: int, attention_width: int, sequence_length: int) -> int:
    """Training FLOPs a token costs: 6 a matmul weight, and full (not halved) attention.

    PaLM's convention (arXiv 2204.02311, appendix B) with the weights that are multiplied only: position tables
    and an input embedding count nothing, a tied table counts once, as the head.

    Args:
        matmul_parameters: weights that a token is multiplied with, the head included.
        layers: number of decoder blocks.
        attention_width: heads * head_dim.
        sequence_length: tokens a sequence.
    """
    return 6 * matmul_parameters + 12 * layers * attention_width * sequence_length


@dataclass(kw_only=True, slots=True)
class Clock:
    """Counts tokens; knows the steps, FLOPs and seconds they stand for.

    Seconds count training and validation of this run, across restarts; not start-up, compilation or probes.
    """

    tokens_per_step: int
    flops_per_token: int
    """Of the step that is being taken; one that trains a part of the model costs less."""
    tokens: int = 0
    flops: int = 0
    step: int = 0
    """Optimizer steps; their size may have changed where a run was continued with another batch."""
    seconds_before: float = 0.0  # spent by earlier starts of the same run
    _started_at: float | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start counting seconds."""
        self._started_at = time.perf_counter()

    def stop(self) -> None:
        """Stop counting seconds."""
        self.seconds_before, self._started_at = self.seconds, None

    def advance(self) -> None:
        """One optimizer step was taken."""
        self.tokens += self.tokens_per_step
        self.flops += self.tokens_per_step * self.flops_per_token
        self.step += 1

    @property
    def seconds(self) -> float:
        running = 0.0 if self._started_at is None else time.perf_counter() - self._started_at
        return self.seconds_before + running

    def reading(self) -> dict[str, int | float]:
        """The four columns every logged row carries."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "flops": self.flops,
            "seconds": round(self.seconds, 3),
        }
