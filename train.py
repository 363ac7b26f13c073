"""Pretrains a language model, grown from a smaller one or from noise: python train.py model=tiny growth=none"""

from functools import partial

from grow.cli.command import entry_point
from grow.cli.config import RunConfig, resolved
from grow.training.plan import PLANNED, plan_run
from grow.training.run_directory import RunDirectory


@entry_point("train", RunConfig)
def main(run: RunConfig) -> None:
    """Open the data, choose what to start from, fit, export. The same command continues an interrupted run."""
    plan = plan_run(**{name: getattr(run, name) for name in PLANNED}, sequence_length=run.data.sequence_length)
    directory = RunDirectory(run.directory)
    changes = directory.check_continues(resolved(run), run.resume)
    if directory.is_finished:
        print(f"{directory.path} is finished: its model is {directory.model}. To train anew, choose another run_dir.")
        return
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from grow.data.corpus import open_data
    from grow.data.data_module import TokenDataModule
    from grow.evaluation.in_run import plan_evaluation
    from grow.families.registry import stock_config
    from grow.families.source_directory import find_source
    from grow.training.announce import announce
    from grow.training.export import export_run
    from grow.training.fit import fit
    from grow.training.loop.weight_probe import plan_analysis
    from grow.training.session import device_of, session
    from grow.training.start import choose_start

    device = device_of(plan)
    with session(plan, device, directory, run.logger) as views:
        shards = open_data(run.data, find_source(run.growth_source) if run.growth_source else None)
        shards.check_vocabulary(run.model.vocab_size)
        probes = [
            *plan_evaluation(run.evaluation, shards, run.data.sequence_length),
            *plan_analysis(run.analysis, directory.path, plan.ranks),
        ]
        data = partial(
            TokenDataModule,
            shards,
            sequence_length=run.data.sequence_length,
            micro_batch=run.trainer.micro_batch,
            seed=run.seed,
            val_tokens=run.trainer.val_tokens,
            rank=plan.ranks.rank,
            world_size=plan.ranks.world_size,
            damaged_tokens=run.data.damaged_tokens,
        )
        with choose_start(stock_config(run.model), run.growth, run.growth_source, data, directory, plan) as start:
            announce(start, plan, device, directory, shards, resolved(run), changes)
            trained = fit(start, plan, device, directory, data, views=views, probes=probes)
        export_run(start, trained, directory, shards)


if __name__ == "__main__":
    main()
