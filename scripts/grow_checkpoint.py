"""Grow a checkpoint directory into a bigger one and prove that it computes the same function.

python scripts/grow_checkpoint.py source=DIR output=DIR growth=hyperclone_noisy model=NAME
python scripts/grow_checkpoint.py source=DIR output=DIR growth=hyperclone scale.embed=2 scale.heads=2 scale.ffn=2
python scripts/grow_checkpoint.py output=DIR growth=join growth.sources=[DIR,DIR]
python scripts/grow_checkpoint.py source=DIR output=DIR growth=g_stack scale.layers=4 workers=4 shard_gb=1
python scripts/grow_checkpoint.py --list
"""

import sys
from pathlib import Path

from grow.cli.command import entry_point
from grow.cli.config import GrowCheckpointConfig
from grow.common.places import CONFIG_DIR
from grow.growth.gallery import table


@entry_point("grow_checkpoint", GrowCheckpointConfig)
def main(config: GrowCheckpointConfig) -> None:
    """Grow, verify, and say what was found."""
    from grow.families.build import load_config
    from grow.families.registry import stock_config
    from grow.families.source_directory import find_source
    from grow.growth.run import grow
    from grow.growth.target import target_of

    names = config.growth.sources or [str(config.source)]
    sources = [load_config(find_source(name)) for name in names]
    target = target_of(sources, config.growth, config.scale) if config.model is None else stock_config(config.model)
    shard_bytes = round(config.shard_gb * 1e9)
    record = grow(
        names[0], Path(config.output), config.growth, target, max_shard_bytes=shard_bytes, workers=config.workers
    )
    checked = record.verification
    if record.continued is not None:
        print(record.continued)
    print(f"grown      {record.lineage.source} -> {config.output} by {config.growth.name}: {record.plan.summary}")
    print(
        f"preserved  {'yes' if checked.preserved else 'no'}: worst logit difference {checked.max_abs_logit_diff:.2e} "
        f"of {checked.max_abs_logit:.3g}, best-fit scale {checked.logit_scale:.6f}, KL {checked.kl:.1e} "
        f"over {checked.tokens} tokens"
    )
    if record.notice is not None:
        print(record.notice)
    print(f"details    {Path(config.output) / 'growth.json'}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print(table(CONFIG_DIR / "growth", CONFIG_DIR.parent / "docs" / "growth_measured.csv"))
    else:
        main()
