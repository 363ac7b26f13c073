"""The clock of a run: it counts tokens, and the steps, FLOPs and seconds that go with them."""

import time
from dataclasses import dataclass, field


def flops_per_token(*, matmul_parameters: int, layers: int, attention_width: int, sequence_length: int) -> int:
    """Return the training FLOPs of one token, forward and backward: 6 for each matmul weight, and full attention.

    This is PaLM's convention (arXiv 2204.02311, appendix B): attention is not halved for the causal mask. Only
    weights in a matrix product count: position tables and an input embedding do not, a tied table counts once, as
    the head.

    Args:
        matmul_parameters: Weights that each token is multiplied with, the head included.
        layers: Number of decoder blocks.
        attention_width: Heads * head_dim.
        sequence_length: Tokens in one sequence.
    """
    return 6 * matmul_parameters + 12 * layers * attention_width * sequence_length


@dataclass(kw_only=True, slots=True)
class Clock:
    """Tokens, FLOPs, optimizer steps and seconds of one run so far.

    Seconds count the run's training and validation, across restarts; start-up, compilation and probes are left out.
    """

    tokens_per_step: int
    flops_per_token: int
    """FLOPs of one token in the current step; a step that trains only a part of the model costs less."""
    tokens: int = 0
    flops: int = 0
    step: int = 0
    """Optimizer steps taken; their size in tokens changes where a run is continued with another batch size."""
    seconds_before: float = 0.0  # counted before the last `start`, by earlier starts of the same run too
    _started_at: float | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start counting seconds."""
        self._started_at = time.perf_counter()

    def stop(self) -> None:
        """Stop counting seconds."""
        self.seconds_before, self._started_at = self.seconds, None

    def advance(self) -> None:
        """Count one optimizer step that was taken."""
        self.tokens += self.tokens_per_step
        self.flops += self.tokens_per_step * self.flops_per_token
        self.step += 1

    @property
    def seconds(self) -> float:
        """Seconds counted so far, those since `start` included."""
        running = 0.0 if self._started_at is None else time.perf_counter() - self._started_at
        return self.seconds_before + running

    def reading(self) -> dict[str, int | float]:
        """Return the four columns that every logged row carries."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "flops": self.flops,
            "seconds": round(self.seconds, 3),
        }
