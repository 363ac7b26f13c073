"""Measure symmetry of copies, singular values, expert overlap and forgetting over all checkpoints of a run.

python scripts/analyze.py run=outputs/RUN          # then scripts/report.py draws what it finds

RUN/analysis/NAME.json          one checkpoint's numbers and spectra
RUN/analysis/metrics.jsonl      a row for each checkpoint: analysis/symmetry/MATRIX, analysis/effective_rank/MATRIX, ...
RUN/analysis/forgetting.json    drop and recovery of each score against the source's own
"""

from pathlib import Path

from grow.cli.command import entry_point
from grow.cli.config import AnalyzeConfig
from grow.common.printed import say


@entry_point("analyze", AnalyzeConfig)
def main(config: AnalyzeConfig) -> None:
    """Analyze every checkpoint of a run; write rows, spectra and forgetting, and print a summary."""
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from grow.analysis.analyze_run import analyze_run, summary_table
    from grow.common.console import table_console

    rows, dips = analyze_run(Path(config.run), config.layers, config.source)
    table_console().print(summary_table(rows))
    for name, dip in dips.items():
        back = "not recovered" if dip.recovered_at_tokens is None else f"back at {dip.recovered_at_tokens:,.0f} tokens"
        say(f"{name}: source {dip.own:.4f}, worst {dip.worst:.4f} at {dip.worst_at_tokens:,.0f} tokens, {back}")
    say(f"Wrote {Path(config.run) / 'analysis'}")


if __name__ == "__main__":
    main()
