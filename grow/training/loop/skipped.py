"""Skipped steps, whose gradient was not finite: their count, their limit, and a report of the data they had read."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grow.common.clock import Clock
from grow.common.errors import DivergedError
from grow.common.provenance import write_json
from grow.training.plan import Batch

REPORT_FILE = "diverged.json"


@dataclass(kw_only=True, slots=True)
class SkippedSteps:
    """Counts the steps that the optimizer skipped, over the whole run and in a row."""

    limit: int
    """Skipped steps in a row at which the run stops."""
    batch: Batch
    run: Path
    total: int = 0
    in_a_row: int = 0

    def count(self, norms: list[float], clock: Clock) -> list[int]:
        """Count the last steps by their gradient norms, and return the steps that were skipped.

        Args:
            norms: Gradient norms of consecutive steps that end with the clock's step.
            clock: Clock of the run.

        Raises:
            DivergedError: `limit` steps in a row were skipped; diverged.json names them and the sequences they read.
        """
        skipped = []
        for step, norm in enumerate(norms, clock.step - len(norms) + 1):
            if math.isfinite(norm):
                self.in_a_row = 0
                continue
            skipped.append(step)
            self.in_a_row += 1
            self.total += 1
            if self.in_a_row >= self.limit:
                raise self._diverged(step, clock)
        return skipped

    def _diverged(self, last: int, clock: Clock) -> DivergedError:
        report = self.run / REPORT_FILE
        steps = [self._read_by(step, clock) for step in range(last - self.limit + 1, last + 1)]
        write_json(report, {"skipped_in_a_row": self.limit, "skipped_in_all": self.total, "steps": steps})
        return DivergedError(
            f"the gradient was not finite in {self.limit} steps in a row, the last of them step {last}, which read "
            f"the sequences {steps[-1]['first_sequence']} to {steps[-1]['last_sequence']} of the run's order. {report} "
            "names the steps and what they read. Starting again would end the same way: lower optimizer.lr, lengthen "
            "schedule.warmup_tokens, or keep optimizer.max_grad_norm above 0."
        )

    def _read_by(self, step: int, clock: Clock) -> dict[str, Any]:
        tokens = clock.tokens - (clock.step - step + 1) * self.batch.tokens
        first = tokens // self.batch.sequence_length
        sequences = self.batch.tokens // self.batch.sequence_length
        return {"step": step, "tokens": tokens, "first_sequence": first, "last_sequence": first + sequences - 1}
