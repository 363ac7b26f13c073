"""Score checkpoints: harness tasks, and perplexity and bits per byte of held-out text.

python eval.py checkpoint=RUN                                   a run's model on the eight tasks of harness8
python eval.py checkpoint=DIRECTORY_OR_HUB_ID evaluation=harness10
python eval.py checkpoint=RUN evaluation=fast                   a quick look
python eval.py checkpoint=RUN evaluation=heldout heldout=SHARDS
python eval.py checkpoint='[RUN/checkpoints/step-00000100,RUN]' a trend over checkpoints
"""

from grow.cli.command import entry_point
from grow.cli.config import EvalConfig
from grow.common.extras import require
from grow.common.printed import say


@entry_point("eval", EvalConfig)
def main(config: EvalConfig) -> None:
    """Find everything, measure each checkpoint, write results.json and print a table."""
    require("lm_eval", "eval.py")
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    import torch

    from grow.common.console import table_console
    from grow.distributed.processes import is_first
    from grow.evaluation.evaluate import evaluate_checkpoint, plan_evaluations
    from grow.evaluation.parallel import joined
    from grow.evaluation.results import RESULTS_FILE, score_table, trend_table
    from grow.evaluation.task_progress import EvaluationProgress

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    planned = plan_evaluations(config)
    console, rows = table_console(), []
    with joined(config.accelerator) as device:
        for plan in planned:
            with EvaluationProgress() as watch:
                scores = evaluate_checkpoint(plan, config, device, watch)
            rows.append((plan.checkpoint.name, plan.checkpoint.clock, scores))
            if is_first():
                console.print(score_table(str(plan.checkpoint.model), scores))
                say(f"Wrote {plan.output / RESULTS_FILE}")
        if is_first() and len(rows) > 1:
            console.print(trend_table(rows))


if __name__ == "__main__":
    main()
