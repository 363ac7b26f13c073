"""The presets: each does what its file, the gallery and the list of them say."""

import subprocess
import sys
from pathlib import Path

import pytest

from grow.cli.config import compose
from grow.common.places import CONFIG_DIR
from grow.growth.gallery import presets, table
from grow.growth.settings import ScaleSettings
from tests.growth.cases import grown_model, plan, relative_difference

ROOT = CONFIG_DIR.parent
MEASURED = ROOT / "docs" / "growth_measured.csv"
PRESETS = {preset.name: preset for preset in presets(CONFIG_DIR / "growth")}
TWICE, WIDER = ScaleSettings(), ScaleSettings(embed=1.5, heads=1.5, ffn=1.5)
DEEPER = ScaleSettings(embed=1, heads=1, ffn=1, layers=2)
WIDTHS = ("hyperclone", "hyperclone_noisy", "hyperclone_diagonal", "hyperclone_diagonal_noisy", "sparkling")
ANY_WIDTH = ("lemon", "isometric", "zero_pad")
EXACT = [
    *((name, TWICE) for name in (*WIDTHS, *ANY_WIDTH, "bert2bert_fpi")),
    *((name, WIDER) for name in ANY_WIDTH),
    *((name, DEEPER) for name in ("llama_pro", "identity_stack", "lemon")),
]
CHANGES = [
    *((name, WIDER) for name in ("net2net", "bert2bert_fpi", "sparkling")),
    *((name, TWICE) for name in ("net2net", "bert2bert_aki", "aki_pro")),
    *((name, DEEPER) for name in ("stackbert", "g_stack", "mslt", "interpose", "solar", "bert2bert_fpi")),
]
OF_SEVERAL = {
    "join",
    "join_above",
    "upcycle",
    "drop_upcycle",
    "expert_noise",
    "branch_train_mix",
}


def _settings(name):
    return compose([f"growth={name}", "growth.source=somewhere"]).growth


@pytest.mark.parametrize(("name", "scale"), EXACT)
def test_presets_that_say_they_are_exact_are(sources, name, scale):
    source, growth = sources("llama-mha"), _settings(name)
    assert plan(source, growth, scale)[0].preserves
    assert relative_difference(source.model, grown_model(source, growth, scale)) < 1e-10


@pytest.mark.parametrize(("name", "scale"), CHANGES)
def test_presets_that_say_they_change_the_function_do_and_their_plans_say_so(sources, name, scale):
    source, growth = sources("llama-mha"), _settings(name)
    assert plan(source, growth, scale)[0].reasons
    assert relative_difference(source.model, grown_model(source, growth, scale)) > 1e-3


def test_every_preset_is_tested():
    assert {name for name, _ in (*EXACT, *CHANGES)} | OF_SEVERAL | {"identity"} == PRESETS.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_whether_it_is_exact_and_what_paper_it_stands_for(name):
    assert any(word in PRESETS[name].does.lower() for word in ("exact", "without loss", "changes the function"))
    assert len(PRESETS[name].reference) > 10
    assert _settings(name).name == name


def test_the_gallery_holds_the_table_and_a_screen_for_every_preset():
    gallery = (ROOT / "docs" / "growth.md").read_text()
    assert table(CONFIG_DIR / "growth", MEASURED) in gallery
    headings = [line for line in gallery.splitlines() if line.startswith("### ")]
    shown = {name.strip() for line in headings for name in line.removeprefix("### ").split(",")}
    assert shown == PRESETS.keys()


@pytest.mark.slow
def test_the_command_lists_the_same_table():
    command = [sys.executable, str(Path("scripts") / "grow_checkpoint.py"), "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    assert done.stdout.strip() == table(CONFIG_DIR / "growth", MEASURED)
