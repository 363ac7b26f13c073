"""Export a checkpoint of a run as a stock model directory that computes the same, and push a model to the hub.

python scripts/export.py source=RUN/checkpoints/step-00000500 output=DIR
python scripts/export.py source=RUN/model hub=OWNER/NAME [private=false]
"""

from pathlib import Path

from grow.cli.command import entry_point
from grow.common.errors import ConfigError
from grow.common.hub import push_to_hub
from grow.common.printed import say
from grow.common.provenance import STATE_FILE
from grow.training.settings import ExportConfig


@entry_point("export", ExportConfig)
def main(config: ExportConfig) -> None:
    """Export, compare the logits, print the difference; push, and print the address."""
    directory = Path(config.source)
    if config.output is not None:
        # Heavy imports wait until here, so that help and configuration errors answer at once.
        from grow.training.checkpoints.engine_export import export_checkpoint

        checked = export_checkpoint(directory, Path(config.output))
        say(
            f"exported  {config.source} -> {config.output}\n"
            f"same      worst logit difference {checked.max_abs_logit_diff:.2e} of {checked.max_abs_logit:.3g} over "
            f"{checked.tokens} tokens"
        )
        directory = Path(config.output)
    if config.hub is not None:
        from grow.families.build import load_config
        from grow.families.weights import weight_files

        if (directory / STATE_FILE).is_file():
            raise ConfigError(
                f"source={directory}: a checkpoint holds a run's state. Add output=DIRECTORY to push a model."
            )
        load_config(directory)
        weight_files(directory)  # complete, or refused
        say(f"pushed    {directory} -> {push_to_hub(directory, config.hub, private=config.private)}")


if __name__ == "__main__":
    main()
