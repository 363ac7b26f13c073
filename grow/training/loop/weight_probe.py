"""A probe that analyzes the weights during training, with the files and numbers of scripts/analyze.py."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grow.analysis.analyze_run import growth_of, record, summarize
from grow.analysis.settings import AnalysisSettings
from grow.analysis.weight_analysis import analyze_weights, merged
from grow.common.checkpoint_names import checkpoint_name
from grow.common.files import disk_errors_named
from grow.common.rows import ANALYSIS_FOLDER
from grow.common.temporary import discard
from grow.distributed.processes import barrier, gather, is_first
from grow.distributed.ranks import Ranks
from grow.training.checkpoints.checkpoint_writer import save_model
from grow.training.checkpoints.fragments import full_weights
from grow.training.step.module import PretrainModule


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightProbe:
    """Measures symmetry, spectra, expert overlap and forgetting; implements `grow.training.loop.probe.Probe`.

    The weights are written to a scratch directory in a checkpoint's format, read matrix by matrix, and removed. So
    whole matrices are analyzed under every strategy, with the results that scripts/analyze.py has for a checkpoint.
    """

    run: Path
    every_tokens: int
    layers: list[int] | None
    ranks: Ranks
    name: str = "analysis"
    of_average: bool = False
    shown: tuple[str, ...] = ("analysis/symmetry/mean", "analysis/effective_rank/mean", "analysis/expert_overlap/mean")

    def measure(self, module: PretrainModule, heartbeat: Callable[[str], None], averaged: bool) -> dict[str, float]:
        """Return analysis/symmetry/MATRIX and so on, and their means; rank 0 also writes RUN/analysis.

        Raises:
            CheckpointError: the disk is full or read-only.
        """
        heartbeat("the analysis of the weights")
        scratch = self.run / ANALYSIS_FOLDER / ".weights"
        weights = full_weights(module.model)
        if weights is not None:
            discard(scratch)  # left by a run that was killed here
            with disk_errors_named(scratch):
                scratch.mkdir(parents=True)
                save_model(module.model, weights, scratch)
        barrier()
        part, parts = self.ranks.rank, self.ranks.world_size
        found = merged(
            gather(
                analyze_weights(scratch, growth_of(self.run), self.layers, part=part, parts=parts, heartbeat=heartbeat)
            )
        )
        if is_first():
            discard(scratch)
            record(self.run, checkpoint_name(module.clock.step), module.clock.reading(), found)
            summarize(self.run)
        return found.metrics()


def plan_analysis(settings: AnalysisSettings, run: Path, ranks: Ranks) -> list[WeightProbe]:
    """Return the run's probe of its weights, or none where analysis.every_tokens is null."""
    if settings.every_tokens is None:
        return []
    return [WeightProbe(run=run, every_tokens=settings.every_tokens, layers=settings.layers, ranks=ranks)]
