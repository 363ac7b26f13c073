"""The Python door: what the commands do, as functions for notebooks and other programs.

    import grow

Each composes the configuration that its command would get and calls the same functions, so that presets, checks and
results are the command's own. Nothing heavy is imported before a function is called. A mistake raises one of
`grow.common.errors`, whose message says what to do.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from grow.averaging.offline import AverageRecord
    from grow.cli.config import GrowCheckpointConfig
    from grow.growth.record import GrowthRecord

Names = str | Path | Sequence[str | Path]
"""One path or hub id, or several."""


def grow_checkpoint(
    source: Names,
    output: str | Path,
    growth: str = "hyperclone",
    *,
    model: str | None = None,
    scale: Mapping[str, float] | None = None,
    **settings: Any,
) -> "GrowthRecord":
    """Grow a checkpoint into a bigger one, and verify that it computes the same function if the growth claims to.

    Args:
        source: Run directory, model directory or hub id to grow from; a list of them for the growths that join several.
        output: Directory to make. It loads with `AutoModelForCausalLM.from_pretrained`; `growth.json` in it has the
            record.
        growth: Preset of `configs/growth/`; `grow grow_checkpoint --list` describes them.
        model: Target architecture, a file of `configs/model/`. None multiplies the source's sizes by `scale`.
        scale: Factors of `embed`, `heads`, `kv_heads`, `head_dim`, `ffn` and `layers`. Without it, and without `model`,
            embed, heads and ffn double.
        settings: Other settings of the growth, as on the command line behind `growth.`, for example `snr_db=20`.

    Returns:
        What was done to each tensor (`plan`) and how far the logits of both models are apart (`verification`).

    Raises:
        ConfigError: There is no such preset, model or setting.
        GrowthError: The source does not fit the target, or the grown model does not keep a function that it claims to.
        CheckpointError: The source cannot be read, or the output cannot be written.

    Examples:
        >>> record = grow_checkpoint("outputs/source", "grown", "hyperclone_noisy", scale={"embed": 3, "heads": 3})
        >>> record.verification.preserved
        True
    """
    from grow.cli.config import GrowCheckpointConfig, compose

    chosen = [f"growth={growth}", *([] if model is None else [f"model={model}"])]
    one = isinstance(source, (str, Path))
    values: dict[str, Any] = {"source": str(source)} if one else {"growth.sources": _listed(source)}
    values |= {"output": str(output)}
    values |= {f"scale.{key}": factor for key, factor in (scale or {}).items()}
    values |= {f"growth.{key}": value for key, value in settings.items()}
    return grow_configured(compose([*chosen, *_overrides(values)], "grow_checkpoint", GrowCheckpointConfig))


def grow_configured(config: "GrowCheckpointConfig") -> "GrowthRecord":
    """Grow what a configuration of scripts/grow_checkpoint.py says. Raises as `grow_checkpoint`."""
    from grow.families.build import load_config
    from grow.families.registry import stock_config
    from grow.families.source_directory import find_source
    from grow.growth.run import grow
    from grow.growth.target import target_of

    names = config.growth.sources or [str(config.source)]
    sources = [load_config(find_source(name)) for name in names]
    target = target_of(sources, config.growth, config.scale) if config.model is None else stock_config(config.model)
    shard_bytes = round(config.shard_gb * 1e9)
    return grow(
        names[0], Path(config.output), config.growth, target, max_shard_bytes=shard_bytes, workers=config.workers
    )


def average_checkpoints(
    checkpoints: Names, output: str | Path, averaging: str = "lawa", **settings: Any
) -> "AverageRecord":
    """Average checkpoints of one model into a directory that loads like any of them.

    Args:
        checkpoints: A run (all of its checkpoints), or a list of model directories, hub ids with a revision,
            `.safetensors` files or state dicts.
        output: Directory to make; `average.json` in it has the record.
        averaging: Preset of `configs/averaging/`: lawa, ema, swa or wsm.
        settings: Settings of the average, as on the command line behind `averaging.`, for example `every_steps=20`.

    Returns:
        What was averaged, with the share of each checkpoint, oldest first.

    Raises:
        ConfigError: There is no such preset or setting, or there are too few checkpoints.
        CheckpointError: Checkpoints are missing, damaged or of different models, or the output cannot be written.

    Examples:
        >>> record = average_checkpoints("outputs/source", "average", k=2)
        >>> [source["share"] for source in record.sources]
        [0.5, 0.5]
    """
    from grow.averaging import offline
    from grow.averaging.settings import AverageCheckpointsConfig
    from grow.cli.config import compose

    values = {"checkpoints": _listed(checkpoints), "output": str(output)}
    values |= {f"averaging.{key}": value for key, value in settings.items()}
    overrides = [f"averaging={averaging}", *_overrides(values)]
    config = compose(overrides, "average_checkpoints", AverageCheckpointsConfig)
    return offline.average_checkpoints(config.checkpoints, config.averaging, Path(config.output))


def speedup(runs: Names, *, baseline: Names, amortised_over: int = 4) -> "DataFrame":
    """Return how much sooner runs reach the final validation loss of a baseline.

    Args:
        runs: Run directories; seeds of one recipe are one arm.
        baseline: Run directories of the same architecture trained from noise, one a seed.
        amortised_over: Targets that share the source's cost in accounting A.

    Returns:
        A row for each arm, axis (tokens, flops, seconds) and accounting of the source's cost (F: free, I: included,
        A: shared). Columns: `arm`, `axis`, `accounting`, `outcome`, `target_loss` (nats), `cost_baseline` and
        `cost_run` (in the axis's unit), `speedup` (their ratio), `saving` (a share), `gap` (nats short of the target,
        where it was never reached), `interval` (95 %, from three seeds on), `notes` (what to know before believing it).

    Raises:
        ConfigError: A baseline did not start from noise.
        CheckpointError, DataError: A run cannot be read, or the baseline never learned.

    Examples:
        >>> table = speedup("outputs/grown", baseline="outputs/noise")
        >>> table.query("axis == 'tokens' and accounting == 'F'").arm.item()
        'hyperclone_noisy'
    """
    from pandas import DataFrame

    from grow.report.publish import as_json
    from grow.report.verdict import judge

    verdict = judge(_listed(runs), baseline=_listed(baseline), amortised_over=amortised_over)
    return DataFrame(
        {"arm": arm["label"], "axis": axis, "accounting": accounting, **measured, "notes": arm["notes"]}
        for arm in as_json(verdict)["arms"]
        for axis, by_accounting in arm["speedup"].items()
        for accounting, measured in by_accounting.items()
    )


def load_run(path: str | Path) -> "DataFrame":
    """Return the metrics of a run, a row for each time that they were logged, oldest first.

    Args:
        path: Run directory, of a run that is finished or still training.

    Returns:
        The rows of `metrics.jsonl`: `step`, `tokens`, `flops` and `seconds` in each, and the metrics that were due
        there, such as `train/loss` and `val/loss` (nats a token). `attrs` has the content of `run.json`.

    Raises:
        CheckpointError: There is no run at this path.

    Examples:
        >>> run = load_run("outputs/source")
        >>> run[["step", "tokens", "val/loss"]].dropna().tokens.tolist()
        [0, 640, 1280]
        >>> run.attrs["config"]["model"]["name"]
        'tiny'
    """
    from pandas import DataFrame

    from grow.common.provenance import METRICS_FILE, RUN_FILE
    from grow.common.records import read_object
    from grow.common.rows import read_rows

    record = read_object(Path(path) / RUN_FILE)
    rows = DataFrame(read_rows(Path(path) / METRICS_FILE))
    rows.attrs.update(record)
    return rows


def _listed(names: Names) -> list[str]:
    return [str(name) for name in ([names] if isinstance(names, (str, Path)) else names)]


def _overrides(values: Mapping[str, Any]) -> list[str]:
    """Return values as a command line spells them; JSON's quotes keep paths with blanks and commas whole."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]
