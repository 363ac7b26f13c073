"""Pretrain a language model, grown from a smaller one or from noise. The same command continues an interrupted run.

python train.py model=tiny growth=none                      from noise, in minutes on two CPU cores
python train.py model=tiny_2x growth=hyperclone_noisy growth.source=RUN_OR_DIRECTORY_OR_HUB_ID
python train.py model=scaled scale.layers=2 growth=g_stack growth.source=DIR     the source's own kind, bigger
python train.py model=olmo_2.9b growth=hyperclone_noisy data.path=DIRECTORY    the paper's recipe, on your shards
python train.py growth=none averaging=lawa -m seed=0,1,2    three seeds, one after another
python train.py experiment=demo --cfg job                   every key with its value; nothing is started
"""

from grow.cli.command import entry_point
from grow.cli.run_config import RunConfig
from grow.training.run_directory import FRESH, RunDirectory


@entry_point("train", RunConfig)
def main(run: RunConfig) -> None:
    """Plan, open the run, choose what it starts from, fit, export."""
    plan = run.plan()
    directory = RunDirectory(run.directory)
    directory.check_continues(run.resolved(), run.resume)
    if directory.is_finished and run.resume != FRESH and not plan.is_distributed:  # else ranks decide it together
        directory.say_finished()
        return
    run.check_inputs()
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from grow.evaluation.in_run import plan_evaluation
    from grow.training.announce import announce
    from grow.training.export import export_run
    from grow.training.fit import fit
    from grow.training.loop.weight_probe import plan_analysis
    from grow.training.run_data import check_same_data
    from grow.training.session import data_of, device_of, open_shards, session
    from grow.training.start import choose_start
    from grow.training.step.teacher import open_teaching

    device = device_of(plan)
    plan = plan.on(device.type, begun_with=None if run.resume == FRESH else directory.precision)
    with session(plan, device, directory, run.resolved(), run.resume, run.labelled_logger) as opened:
        if opened is None:  # another process has finished the run since
            if plan.ranks.is_first:
                directory.say_finished()
            return
        architecture = run.architecture()
        shards = open_shards(run.data, run.sources[0] if run.sources else None, directory)
        shards.check_vocabulary(architecture.vocab_size)
        check_same_data(directory.path, shards)
        data = data_of(run.data, shards, plan)
        teaching = open_teaching(run.teacher, plan, device, shards, architecture) if run.teacher else None
        probes = [
            *plan_evaluation(run.evaluation, shards, run.data.sequence_length),
            *plan_analysis(run.analysis, directory.path, plan.ranks),
        ]
        with choose_start(architecture, run.growth, run.growth_source, data, directory, plan) as start:
            announce(start, plan, device, directory, shards, run.resolved(), opened.changes, teaching)
            trained = fit(start, plan, device, directory, data, views=opened.views, probes=probes, teaching=teaching)
        export_run(start, trained, directory, shards)


if __name__ == "__main__":
    main()
