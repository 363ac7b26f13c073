"""Average checkpoints of one model into a directory that loads like any other.

python scripts/average_checkpoints.py checkpoints='[RUN]' averaging=lawa averaging.k=5 output=DIR
python scripts/average_checkpoints.py checkpoints='[EleutherAI/pythia-1b@step23000,EleutherAI/pythia-1b@step24000]' \\
    averaging.k=2 output=DIR
python scripts/average_checkpoints.py checkpoints='[epoch_1.pt,epoch_2.pt]' averaging=swa output=DIR
"""

from pathlib import Path

from grow.averaging.settings import AverageCheckpointsConfig
from grow.cli.command import entry_point
from grow.common.printed import say


@entry_point("average_checkpoints", AverageCheckpointsConfig)
def main(config: AverageCheckpointsConfig) -> None:
    """Average, and print each checkpoint's share and what was written."""
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from grow.averaging.offline import AVERAGE_FILE, average_checkpoints

    output = Path(config.output)
    record = average_checkpoints(config.checkpoints, config.averaging, output)
    for source in record.sources:
        say(f"{source['share']:>8.4f}   {source['source']}")
    copied = f", {len(record.copied)} of whole numbers copied from the newest" if record.copied else ""
    say(f"averaged   {record.averaged} tensors of {len(record.sources)} checkpoints by {config.averaging.name}{copied}")
    say(f"written    {output}; details in {output / AVERAGE_FILE}")


if __name__ == "__main__":
    main()
