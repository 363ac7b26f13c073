"""Merge models that were tuned from one base into a directory that loads like any other.

python scripts/merge.py base=DIR models='[A,B]' merging=dare merging.drop=0.9 merging.weights='[1,1]' output=DIR
python scripts/merge.py models='[A,B]' merging=slerp merging.weights='[0.3,0.7]' output=DIR
python scripts/merge.py base=DIR models='[A]' merging=task_arithmetic merging.scale=-1 output=DIR
python scripts/merge.py --list
"""

import sys
from pathlib import Path

from grow.cli.closed_pipe import ends_with_its_reader
from grow.cli.command import entry_point
from grow.common.places import CONFIG_DIR
from grow.common.printed import say
from grow.merging.preset_table import show_merging_presets
from grow.merging.settings import MergeConfig


@entry_point("merge", MergeConfig)
def main(config: MergeConfig) -> None:
    """Merge, and print the size of each delta and what was written."""
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from grow.merging.merge_models import MERGE_FILE, merge_models, report_lines

    output = Path(config.output)
    record = merge_models(
        config.base,
        config.models,
        config.merging,
        output,
        max_shard_bytes=int(config.shard_gb * 1e9),
        workers=config.workers,
    )
    if record.continued is not None:
        say(record.continued)
    for line in report_lines(record):
        say(line)
    say(f"merged     {len(record.kept)} tensors of {len(record.models)} models by {config.merging.name}")
    say(f"written    {output}; details in {output / MERGE_FILE}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        with ends_with_its_reader():
            show_merging_presets(CONFIG_DIR / "merging")
    else:
        main()
