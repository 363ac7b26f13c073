"""Export a checkpoint of a run as a stock model directory, and verify that it computes the same.

python scripts/export.py source=RUN/checkpoints/step-00000500 output=DIR
"""

from pathlib import Path

from grow.cli.command import entry_point
from grow.common.printed import say
from grow.training.settings import ExportConfig


@entry_point("export", ExportConfig)
def main(config: ExportConfig) -> None:
    """Export, compare the logits, and print the difference."""
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from grow.training.checkpoints.engine_export import export_checkpoint

    checked = export_checkpoint(Path(config.source), Path(config.output))
    say(
        f"exported  {config.source} -> {config.output}\n"
        f"same      worst logit difference {checked.max_abs_logit_diff:.2e} of {checked.max_abs_logit:.3g} over "
        f"{checked.tokens} tokens"
    )


if __name__ == "__main__":
    main()
