"""Every configuration file composes, says what it is, and builds what its header claims."""

import re
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from grow.cli.checkpoint_config import GrowCheckpointConfig
from grow.cli.config import compose
from grow.cli.run_config import ChainConfig, RunConfig
from grow.common.errors import ConfigError
from grow.common.places import CONFIG_DIR
from grow.families.build import model_on_meta, parameter_count
from grow.families.experts import stored_tensors
from grow.families.registry import FAMILIES, stock_config
from grow.families.table import find_parameter

FILES = sorted(CONFIG_DIR.rglob("*.yaml"))
MODELS = sorted(path.stem for path in (CONFIG_DIR / "model").glob("*.yaml") if path.stem != "scaled")  # has no sizes
PUBLISHED = {
    "opt_350m": 331_196_416,
    "opt_350m_prenorm": 355_889_152,
    "opt_1.3b": 1_315_758_080,
    "opt_5.3b": 5_253_349_376,
    "pythia_70m": 70_426_624,
    "pythia_160m": 162_322_944,
    "pythia_410m": 405_334_016,
    "pythia_1.4b": 1_414_647_808,
    "pythia_1.4b_hub": 1_414_647_808,
    "olmo_1b": 1_176_764_416,
    "olmo_2.9b": 3_096_444_928,
}


@cache
def _model(name, *overrides):
    return compose([f"model={name}", "data.sequence_length=64", *overrides]).model


def _count(model):
    return parameter_count(model_on_meta(stock_config(model)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIG_DIR)))
def test_every_configuration_opens_with_what_it_is(path):
    comments = [line for line in path.read_text().splitlines() if line.startswith("#") and "@package" not in line]
    assert comments and len(comments[0]) > 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIG_DIR)))
def test_no_configuration_computes(path):
    assert "${" not in path.read_text()


CHOICES = [
    f"{path.parent.relative_to(CONFIG_DIR)}={path.stem}"
    for path in FILES
    if path.parent != CONFIG_DIR
    and path.relative_to(CONFIG_DIR).parts[0] not in ("model", "experiment", "evaluation", "chain", "merging")
]


@pytest.mark.parametrize(
    "choice",
    [pytest.param(each, marks=pytest.mark.slow) if each.startswith("growth=") else each for each in CHOICES],
)
def test_every_choice_composes_into_a_run(choice):
    needed = ["growth.source=somewhere"] if choice.startswith("growth=") and choice != "growth=none" else []
    needed += ["growth=mslt", "growth.source=somewhere"] if choice == "trainable=new_layers" else []
    needed += ["objective.teacher=somewhere"] if choice == "objective=knowledge_inheritance" else []
    needed += ["data.path=somewhere"] if choice == "data=shards" else []
    needed += ["model=olmo_1b", "trainer=paper"] if choice.startswith("data=dolma") else []
    assert isinstance(compose([choice, *needed]), RunConfig)


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name == "chain"], ids=lambda path: path.stem)
def test_every_chain_composes_and_ends_with_the_target(path):
    chain = compose([f"chain={path.stem}"], "chain", ChainConfig).chain
    last = list(chain.links.values())[-1]
    assert (chain.name, last.layers, last.width, last.sizes) == (path.stem, 1, 1, {})


def test_the_ablation_sweeps_over_every_variant_of_the_paper_and_over_noise():
    file = CONFIG_DIR / "experiment" / "ablation_variants.yaml"
    growths = OmegaConf.load(file).hydra.sweeper.params.growth.split(",")
    assert set(growths) == {path.stem for path in (CONFIG_DIR / "growth").glob("hyperclone*.yaml")} | {"none"}
    runs = [compose(["experiment=ablation_variants", "model=pythia_1.4b", f"growth={growth}"]) for growth in growths]
    assert len({run.directory for run in runs}) == 5


def test_the_experiments_on_lawa_differ_only_in_what_they_claim_something_about():
    runs = {
        path.stem: asdict(compose([f"experiment=lawa/{path.stem}", "run_dir=same"]))
        for path in FILES
        if path.parent == CONFIG_DIR / "experiment" / "lawa"
    }
    constant = runs.pop("constant")
    assert constant["averaging"]["name"] == "lawa"
    assert {name: [key for key in constant if run[key] != constant[key]] for name, run in runs.items()} == {
        "cosine": ["schedule"],
        "cooled": ["schedule"],
        "ema": ["averaging"],
        "damaged": ["data", "optimizer", "trainer", "averaging"],
    }


@pytest.mark.parametrize("name", MODELS)
def test_a_models_header_states_its_parameter_count(name):
    header = re.search(r"Parameters: ([\d,]+)", (CONFIG_DIR / "model" / f"{name}.yaml").read_text())
    count = _count(_model(name))
    assert count == int(header[1].replace(",", ""))
    assert PUBLISHED.get(name, count) == count


def test_the_papers_own_counts_of_tied_and_untied_targets():
    assert _count(_model("olmo_2.9b", "model.tied_head=true")) == 2_890_399_744
    assert _count(_model("opt_5.3b", "model.tied_head=true")) == 5_047_435_264


@pytest.mark.parametrize("name", MODELS)
def test_the_axis_table_names_every_parameter_and_its_length(name):
    config = stock_config(_model(name))
    family = FAMILIES[config.model_type]
    for parameter, shape in stored_tensors(family, model_on_meta(config)).items():
        line = find_parameter(family.table, parameter)
        assert line is not None, parameter
        assert len(line.writes) + (line.reads is not None) == len(shape), parameter


def test_the_one_line_recipe_needs_nothing_else():
    run = compose(["model=olmo_2.9b", "growth=hyperclone_noisy"])
    assert run.growth_source == "allenai/OLMo-1B-hf"
    assert run.growth.snr_db == 10.0


def test_growth_source_overrides_what_the_model_names():
    run = compose(["model=olmo_2.9b", "growth=hyperclone", "growth.source=elsewhere"])
    assert run.growth_source == "elsewhere"


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["growth=hyperclon"], "Did you mean hyperclone"),
        (["model=olmo_2.9"], r"Did you mean olmo_2\.9b"),
        (["trainer.max_token=5"], "Did you mean max_tokens"),
        (["+trainer.max_token=5"], "no attribute 'max_token'"),
        (["+nonsense=1"], "no attribute 'nonsense'"),
        (["trainer.max_tokens=many"], r"trainer\.max_tokens"),
        (["trainer.max_tokens=0"], r"trainer\.max_tokens=0"),
        (["trainer.precision=fp8"], "expected one of fp32, bf16"),
        (["trainer.max_tokens=100"], "less than one step"),
        (["data=shards"], r"data\.path has no value"),
        (["data.sequence_length=10000"], r"longer than model\.max_positions"),
        (["growth=hyperclone"], r"growth\.source=DIRECTORY_OR_HUB_ID"),
        (["model=tiny_opt", "model.embed=100"], "heads x head_dim"),
        (["model.kv_heads=3"], "divisor"),
        (["optimizer.lr=-1"], r"optimizer\.lr"),
        (["schedule.kind=linear"], "paper, cosine, wsd"),
        (["growth=hyperclone", "growth.source=x", "growth.share=odd"], "symmetric, diagonal"),
    ],
)
def test_a_mistake_is_one_paragraph_that_names_it(overrides, match):
    with pytest.raises(ConfigError, match=match):
        compose(overrides)


def test_the_same_configuration_gets_the_same_directory_and_another_one_another():
    first, again = compose(["seed=1"]), compose(["seed=1"])
    assert first.directory == again.directory
    assert compose(["seed=2"]).directory != first.directory
    assert compose(["seed=1", "run_dir=here"]).directory == Path("here")


def test_grow_checkpoint_doubles_width_heads_and_ffn_by_default():
    config = compose(["source=a", "output=b"], "grow_checkpoint", GrowCheckpointConfig)
    scale = config.scale
    assert (scale.embed, scale.heads, scale.head_dim, scale.ffn) == (2, 2, 1, 2)
    assert config.model is None
    with pytest.raises(ConfigError, match=r"scale\.embed=0"):
        compose(["source=a", "output=b", "scale.embed=0"], "grow_checkpoint", GrowCheckpointConfig)
