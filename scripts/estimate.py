"""Estimate what a run will need, before it starts: parameters, FLOPs, memory of a GPU by part, hours, disk. No network.

python scripts/estimate.py model=olmo_2.9b strategy=zero2 strategy.devices=64 [json=true] [output=FILE]
"""

import json
from pathlib import Path

from grow.cli.command import entry_point
from grow.cli.config import EstimateConfig
from grow.common.provenance import write_json
from grow.estimate.closed_form import require_known_activations
from grow.families.settings import ModelSettings
from grow.training.plan import with_precision


@entry_point("estimate", EstimateConfig)
def main(config: EstimateConfig) -> None:
    """Estimate the run that train.py makes of the same overrides; print tables or JSON."""
    config.estimate.find_gpu()  # what cannot be estimated is refused before torch is imported
    if isinstance(config.model, ModelSettings):
        require_known_activations(config.model.family)
    checkpoint = config.checkpoint.in_tokens(config.trainer)

    from grow.common.console import table_console
    from grow.estimate.estimate_run import ConfiguredRun, estimate_run
    from grow.estimate.tables import parts_table, summary_lines, totals_table

    run = ConfiguredRun(
        name=config.model.name,
        architecture=config.architecture(),
        data=config.data,
        trainer=with_precision(config.trainer, "cuda"),
        objective=config.objective,
        strategy=config.strategy,
        trainable=config.trainable,
        checkpoint=checkpoint,
        schedule=config.schedule,
        averaging=config.averaging,
    )
    estimate = estimate_run(run, config.estimate)
    if config.output is not None:
        Path(config.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(config.output), estimate.as_json())
    if config.json:
        print(json.dumps(estimate.as_json(), indent=2))
        return
    print(*summary_lines(estimate), sep="\n")
    table_console().print(parts_table(estimate), totals_table(estimate), sep="\n")
    for note in run.notes():
        print(f"Note: {note}")


if __name__ == "__main__":
    main()
