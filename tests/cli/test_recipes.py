"""A published model brings its recipe: the literal line trains at its real size, and what is named on the line wins."""

from dataclasses import replace

import pytest

from grow.cli.checkpoint_config import GrowCheckpointConfig
from grow.cli.config import compose
from grow.cli.run_config import ChainConfig, EstimateConfig
from grow.common.errors import ConfigError, DataError
from grow.common.places import CONFIG_DIR
from grow.preparation.corpus import open_data
from grow.training.plan import Batch

HEADLINE = ["model=olmo_2.9b", "growth=hyperclone_noisy"]
PUBLISHED = sorted(
    path.stem for path in (CONFIG_DIR / "model").glob("*.yaml") if path.stem.startswith(("olmo_", "opt_", "pythia_"))
)
PAIRS = ("olmo_2.9b", "opt_1.3b", "opt_5.3b", "pythia_1.4b")


@pytest.fixture(scope="module")
def headline():
    return compose(HEADLINE)


def choices(run):
    """The names of what a run chose where a recipe chooses."""
    return {group: getattr(run, group).name for group in ("trainer", "data", "optimizer", "schedule", "checkpoint")}


def test_the_headline_is_the_papers_recipe(headline):
    run = headline
    assert (run.optimizer.lr, run.optimizer.betas, run.optimizer.weight_decay) == (3e-4, [0.9, 0.999], 0.05)
    assert (run.trainer.tokens_per_step, run.data.sequence_length) == (1_048_576, 2048)
    assert (run.trainer.precision, run.trainer.compile) == ("auto", "block")
    assert run.schedule.warmup(run.trainer.max_tokens) == pytest.approx(25_000 * 82_000, rel=0.01)
    assert run.checkpoint.every_tokens == 2_000_000_000


@pytest.mark.parametrize(
    ("model", "lr", "context", "iteration", "decay_ends"),
    [
        ("opt_1.3b", 1.5e-4, 1024, 65_000, 162.5e9),
        ("pythia_1.4b", 1.5e-4, 1024, 65_000, 162.5e9),
        ("olmo_2.9b", 3e-4, 2048, 82_000, 205e9),
    ],
)
def test_a_target_of_hypercloning_has_the_values_of_its_table_2(model, lr, context, iteration, decay_ends):
    run = compose([f"model={model}"])
    assert (run.optimizer.lr, run.data.sequence_length, run.trainer.micro_batch) == (lr, context, 2)
    assert run.schedule.warmup(run.trainer.max_tokens) == pytest.approx(25_000 * iteration, rel=0.01)
    assert run.schedule.decay_fraction * run.trainer.max_tokens == pytest.approx(decay_ends, rel=0.01)


@pytest.mark.parametrize(("model", "lr"), [("pythia_70m", 1e-3), ("pythia_160m", 6e-4), ("pythia_410m", 3e-4)])
def test_a_base_of_pythia_has_the_values_it_was_published_with(model, lr):
    run = compose([f"model={model}"])
    assert (run.optimizer.lr, run.optimizer.betas, run.optimizer.weight_decay) == (lr, [0.9, 0.95], 0.1)
    assert (run.trainer.tokens_per_step, run.trainer.max_tokens) == (2_097_152, 143_000 * 2_097_152)
    assert (run.schedule.kind, run.schedule.warmup_fraction, run.schedule.final_fraction) == ("cosine", 0.01, 0.1)


@pytest.mark.parametrize("model", PUBLISHED)
def test_every_published_model_has_a_recipe_that_1_8_and_64_ranks_can_share(model):
    run = compose([f"model={model}"])
    assert run.trainer.name != "default"
    for ranks in (1, 8, 64):
        assert Batch.divide(run.trainer, run.data.sequence_length, ranks).tokens == run.trainer.tokens_per_step


@pytest.mark.parametrize("model", PAIRS)
def test_the_experiment_of_a_published_pair_is_the_literal_line(model):
    assert compose([f"experiment={model}_paper"]) == compose([f"model={model}", "growth=hyperclone_noisy"])


@pytest.mark.parametrize(
    "given",
    ["trainer=default", "data=english", "optimizer=adamw", "schedule=cosine", "checkpoint=default"],
)
@pytest.mark.parametrize("line", [HEADLINE, ["experiment=olmo_2.9b_paper"]], ids=["model", "experiment"])
def test_a_group_named_on_the_command_line_wins_and_the_others_stay_the_recipes(given, line, headline):
    group, _, choice = given.partition("=")
    assert choices(compose([given, *line])) == {**choices(headline), group: choice}


@pytest.mark.parametrize(
    ("given", "key"),
    [("trainer.max_tokens=5_000_000_000", "max_tokens"), ("trainer.tokens_per_step=65536", "tokens_per_step")],
)
def test_a_value_given_on_the_command_line_wins(given, key, headline):
    value = int(given.partition("=")[2].replace("_", ""))
    assert compose([*HEADLINE, given]).trainer == replace(headline.trainer, **{key: value})


def test_an_experiments_own_choices_win_over_the_recipe_of_its_model():
    run = compose(["experiment=compare_10m_40m", "model=olmo_2.9b"])
    assert (run.model.name, run.data.name, run.schedule.name) == ("olmo_2.9b", "shards", "cosine")
    assert (run.trainer.name, run.trainer.max_tokens) == ("paper", 50_000_000)


def test_a_recipe_can_be_taken_by_name_for_a_model_of_ones_own(headline):
    run = compose(["experiment=recipe/hypercloning_olmo", "model=tiny", "model.max_positions=2048"])
    assert choices(run) == choices(headline)


def test_estimates_and_chains_take_the_same_recipe_and_growing_a_checkpoint_takes_none(headline):
    recipe = choices(headline)
    assert choices(compose(HEADLINE, "estimate", EstimateConfig)) == recipe
    assert choices(compose(["model=olmo_2.9b"], "chain", ChainConfig)) == recipe
    grown = compose(["source=a", "output=b", "model=olmo_2.9b"], "grow_checkpoint", GrowCheckpointConfig)
    assert grown.model.name == "olmo_2.9b"


def test_tiny_models_keep_the_settings_of_minutes():
    run = compose([])
    names = {
        "trainer": "default",
        "data": "english",
        "optimizer": "adamw",
        "schedule": "paper",
        "checkpoint": "default",
    }
    assert choices(run) == names
    assert (run.trainer.tokens_per_step, run.optimizer.lr, run.data.sequence_length) == (4096, 1e-3, 256)


def test_where_the_data_is_missing_the_error_says_what_to_give_and_what_to_try(tmp_path):
    data = compose([*HEADLINE, f"data.path={tmp_path}/none"]).data
    with pytest.raises(
        DataError, match=r"none: expected a directory of token shards.*data\.path=DIRECTORY.*data=english"
    ):
        open_data(data)


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_precision_auto_is_bf16_on_a_gpu_and_fp32_on_a_cpu_and_a_named_one_stays(kind, precision):
    plan = compose([f"trainer.precision={precision}"]).plan().on(kind)
    expected = {"cuda": "bf16", "cpu": "fp32"}[kind] if precision == "auto" else precision
    assert plan.trainer.precision == expected
    assert plan.autocasts == (expected == "bf16")


def test_precision_auto_keeps_what_a_run_began_with_on_any_device():
    plan = compose([]).plan()
    assert plan.on("cuda", begun_with="fp32").trainer.precision == "fp32"
    assert plan.on("cpu", begun_with="bf16").trainer.precision == "bf16"


def test_a_strategy_without_float32_masters_does_not_go_on_with_bfloat16_weights():
    with pytest.raises(ConfigError, match=r"precision=bf16_weights keeps float32 masters.*strategy=ddp"):
        compose(["strategy=ddp"]).plan().on("cuda", begun_with="bf16_weights")
    zero = compose(["strategy=zero2"]).plan().on("cuda", begun_with="bf16_weights")
    assert zero.trainer.precision == "bf16_weights"


def test_a_run_of_the_former_default_precision_keeps_its_directory():
    assert compose([]).directory == compose(["trainer.precision=fp32"]).directory
    assert compose([]).directory != compose(["trainer.precision=bf16"]).directory


@pytest.mark.parametrize(
    ("given", "every"),
    [("checkpoint.every_fraction=0.02", 20_000), ("checkpoint.every_fraction=1", 1_000_000), ("seed=0", 200_000)],
)
def test_a_checkpoint_interval_may_be_a_share_of_the_run(given, every):
    settings = compose([given]).plan().checkpoint
    assert (settings.every_tokens, settings.every_fraction) == (every, None)
    assert settings.due(every - 1, every) == "rolling"


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (["checkpoint.every_tokens=4095"], r"checkpoint\.every_tokens=4,095: expected at least one step of .*=4,096"),
        (["trainer=paper"], r"checkpoint\.every_tokens=200,000.*=1,048,576"),
        (["checkpoint.every_fraction=0.001"], r"checkpoint\.every_fraction=0\.001, in tokens=1,000: expected at least"),
        (["checkpoint.permanent_every_tokens=8"], r"checkpoint\.permanent_every_tokens=8: expected at least one step"),
        (["checkpoint.every_fraction=0"], r"checkpoint\.every_fraction=0\.0: expected a share"),
        (["checkpoint.every_fraction=2"], r"checkpoint\.every_fraction=2\.0: expected a share"),
    ],
)
def test_an_interval_below_one_step_is_refused(given, match):
    with pytest.raises(ConfigError, match=match):
        compose(given).plan()


def test_an_interval_of_one_step_is_not_refused():
    assert compose(["checkpoint.every_tokens=4096"]).plan().checkpoint.every_tokens == 4096
    assert compose(["checkpoint=none"]).plan().checkpoint.every_tokens is None
