"""One door into planning: whoever grows or rehearses asks plan_of, which finds the planner for the kind of growth."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest

import grow
from grow.families.weights import WeightReader
from grow.growth.made_tensors import ExpertTensor, JoinedTensor, RouterTensor, TensorPlan
from grow.growth.planning import balances_streams, plan_of
from grow.growth.rehearsal import rehearse
from grow.growth.settings import GrowthSettings, ScaleSettings
from grow.growth.target import joined_target, scaled_target
from tests.growth.cases import PRESETS, preset
from tests.growth.test_upcycled import dense_source, mixture  # noqa: F401 (a fixture)

PACKAGE = Path(grow.__file__).parent
PLANNERS = {f"grow.growth.{name}" for name in ("one_source", "joined", "upcycled")}


def imported(path):
    """Modules that a file imports anywhere in it, and the names it takes from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node.module) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, alias.name) for alias in node.names)


@pytest.mark.parametrize("name", ["run", "rehearsal"])
def test_who_grows_or_rehearses_knows_no_planner(name):
    found = {each for pair in imported(PACKAGE / "growth" / f"{name}.py") for each in pair}
    assert "grow.growth.planning" in found
    assert not found & PLANNERS


def test_planners_are_called_through_the_one_door_alone():
    takes = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for name, module in imported(path)
        if module in PLANNERS and name.rpartition(".")[2].startswith("plan_")
    }
    assert takes == {"growth/planning.py"}


def test_each_kind_of_growth_finds_its_planner(sources, dense_source):  # noqa: F811
    source = sources("llama-gqa")
    reader, config = WeightReader(source.directory), source.config
    one = plan_of([reader], [config], scaled_target(config, ScaleSettings()), preset())
    assert {type(tensor) for tensor in one.tensors} == {TensorPlan}
    growth = GrowthSettings(name="join", join="beside", sources=[str(source.directory)] * 2)
    both = plan_of([reader] * 2, [config] * 2, joined_target([config] * 2, growth), growth)
    assert {type(tensor) for tensor in both.tensors} == {JoinedTensor}
    dense = dense_source()
    experts = plan_of([WeightReader(dense.directory)], [dense.config], mixture(), preset())
    assert {RouterTensor, ExpertTensor} < {type(tensor) for tensor in experts.tensors}


def test_a_rehearsal_has_the_plan_of_the_growth_itself(sources):
    source, growth = sources("pythia"), PRESETS["hyperclone_noisy"]
    target = scaled_target(source.config, ScaleSettings())
    grown = plan_of([WeightReader(source.directory)], [source.config], target, growth)
    rehearsed = rehearse(source.config, target, growth)
    assert [tensor.as_json() for tensor in rehearsed.tensors] == [tensor.as_json() for tensor in grown.tensors]
    assert (rehearsed.reasons, rehearsed.layers, rehearsed.factors) == (grown.reasons, grown.layers, grown.factors)


def test_streams_are_measured_only_where_dense_sources_are_joined_and_balanced(sources, dense_source):  # noqa: F811
    config = sources("llama-gqa").config
    growth = GrowthSettings(name="join", join="beside", sources=["a", "b"], balance=True)
    target = joined_target([config] * 2, growth)
    assert balances_streams([config] * 2, target, growth)
    assert not balances_streams([config] * 2, target, replace(growth, balance=False))
    assert not balances_streams([config], target, replace(growth, sources=None))
    assert not balances_streams([dense_source().config] * 2, mixture(), growth)
