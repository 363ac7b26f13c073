"""Symmetry of the copies, singular values, expert overlap and forgetting, over all checkpoints of a run.

python scripts/analyze.py run=outputs/RUN          # then scripts/report.py draws what it finds

RUN/analysis/NAME.json          one checkpoint's numbers and spectra
RUN/analysis/metrics.jsonl      a row a checkpoint: analysis/symmetry/MATRIX, analysis/effective_rank/MATRIX, ...
RUN/analysis/forgetting.json    drop and recovery of each score against the source's own
"""

from pathlib import Path

from grow.cli.command import entry_point
from grow.cli.config import AnalyzeConfig


@entry_point("analyze", AnalyzeConfig)
def main(config: AnalyzeConfig) -> None:
    """Analyze every checkpoint there is, and write rows, spectra and forgetting."""
    from rich.console import Console  # here, so that help and mistakes answer at once

    from grow.analysis.analyze_run import analyze_run, summary_table

    rows, dips = analyze_run(Path(config.run), config.layers, config.source)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(summary_table(rows))
    for name, dip in dips.items():
        back = "not recovered" if dip.recovered_at_tokens is None else f"back at {dip.recovered_at_tokens:,.0f} tokens"
        print(f"{name}: source {dip.own:.4f}, worst {dip.worst:.4f} at {dip.worst_at_tokens:,.0f} tokens, {back}")
    print(f"Wrote {Path(config.run) / 'analysis'}")


if __name__ == "__main__":
    main()
