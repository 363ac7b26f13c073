"""Grow a checkpoint directory into a bigger one and verify that it computes the same function.

python scripts/grow_checkpoint.py source=DIR output=DIR growth=hyperclone_noisy model=NAME
python scripts/grow_checkpoint.py source=DIR output=DIR growth=hyperclone scale.embed=2 scale.heads=2 scale.ffn=2
python scripts/grow_checkpoint.py output=DIR growth=join growth.sources=[DIR,DIR]
python scripts/grow_checkpoint.py source=DIR output=DIR growth=g_stack scale.layers=4 workers=4 shard_gb=1
python scripts/grow_checkpoint.py --list
"""

import sys
from pathlib import Path

from grow.api import grow_configured
from grow.cli.closed_pipe import ends_with_its_reader
from grow.cli.command import entry_point
from grow.cli.config import GrowCheckpointConfig
from grow.common.places import CONFIG_DIR, MEASURED_FILE
from grow.common.printed import say
from grow.growth.gallery import show


@entry_point("grow_checkpoint", GrowCheckpointConfig)
def main(config: GrowCheckpointConfig) -> None:
    """Grow, verify, and say what was found."""
    record = grow_configured(config)
    checked = record.verification
    if record.continued is not None:
        say(record.continued)
    say(f"grown      {record.lineage.source} -> {config.output} by {config.growth.name}: {record.plan.summary}")
    say(
        f"preserved  {'yes' if checked.preserved else 'no'}: worst logit difference {checked.max_abs_logit_diff:.2e} "
        f"of {checked.max_abs_logit:.3g}, best-fit scale {checked.logit_scale:.6f}, KL {checked.kl:.1e} "
        f"over {checked.tokens} tokens"
    )
    if record.notice is not None:
        say(record.notice)
    say(f"details    {Path(config.output) / 'growth.json'}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        with ends_with_its_reader():
            show(CONFIG_DIR / "growth", MEASURED_FILE)
    else:
        main()
