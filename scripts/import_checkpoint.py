"""Import a checkpoint of another format as a stock model directory: GGUF, PyTorch's .bin, old names of tensors.

python scripts/import_checkpoint.py source=MODEL.gguf output=DIR
python scripts/import_checkpoint.py source=facebook/opt-125m@main output=DIR
"""

from pathlib import Path

from grow.cli.command import entry_point
from grow.common.printed import say
from grow.families.settings import ImportCheckpointConfig


@entry_point("import_checkpoint", ImportCheckpointConfig)
def main(config: ImportCheckpointConfig) -> None:
    """Import, and say what was converted."""
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from grow.families.checkpoint_import import import_checkpoint
    from grow.families.source_directory import locate

    record = import_checkpoint(locate(config.source), Path(config.output), config.source)
    say(f"imported   {config.source} -> {config.output}: {record.parameters:,} parameters")
    say(f"converted  {record.converted or 'nothing; the tensors are copies'}")


if __name__ == "__main__":
    main()
