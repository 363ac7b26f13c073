"""The table of measured presets: each preset against the baseline of its own shape, and the pages with the table."""

import csv

import pytest

from grow.common.errors import DataError
from grow.common.places import CONFIG_DIR
from grow.growth.gallery import presets, table
from grow.report.presets import as_csv, best, read_shapes, rows, with_table
from grow.report.presets_figure import draw_shapes

NOISE = [8.0, 6.0, 5.0, 4.5, 4.0]


@pytest.fixture
def runs(make_run, source, tmp_path):
    """Two shapes with baselines and three grown arms, the source trained further, an unfinished run, a tuning run."""
    grown = {
        "wide/hyperclone-0": [5.0, 4.5, 4.0, 3.8, 3.7],
        "wide/lemon-0": [5.0, 4.9, 4.8, 4.5, 4.2],
        "deep/stackbert-0": [7.0, 4.0, 3.9, 3.8, 3.6],
        "deep/stackbert-1": [7.0, 4.2, 3.9, 3.8, 3.8],
        "source/identity-0": [5.0, 4.9, 4.8, 4.7, 4.6],
    }
    made = [make_run(f"runs/{shape}/noise-0", NOISE) for shape in ("wide", "deep")]
    for name, losses in grown.items():
        preset, seed = name.partition("/")[2].split("-")
        made.append(make_run(f"runs/{name}", losses, growth=preset, source=source, seed=int(seed)))
    made.append(make_run("runs/tune/noise/4e-3", NOISE))
    for run in made:
        (run / "model").mkdir()
    make_run("runs/wide/zero_pad-0", [5.0, 1.0], growth="zero_pad", source=source)
    return tmp_path / "runs"


def test_a_preset_is_judged_against_the_baseline_of_its_own_shape(runs):
    found = {(row.shape, row.preset): row for row in rows(read_shapes(runs))}
    hyperclone = found["wide", "hyperclone"]
    assert (hyperclone.first_loss, hyperclone.tokens_to_target, hyperclone.speedup) == (5.0, 2000, 2.0)
    assert hyperclone.gain == pytest.approx(0.3)
    assert hyperclone.speedup_tokens == pytest.approx(4000 / 2500)  # the source's 500 tokens counted
    assert found["deep", "stackbert"].seeds == 2
    assert found["deep", "stackbert"].final_loss == pytest.approx(3.7)
    assert found["deep", "stackbert"].final_by_seed == "3.6000 3.8000"
    assert found["wide", "lemon"].speedup == 0
    assert found["source", "identity"].speedup is None


def test_runs_that_are_not_done_or_tune_the_rate_are_left_out(runs):
    assert {row.shape for row in rows(read_shapes(runs))} == {"wide", "deep", "source"}
    assert "zero_pad" not in {row.preset for row in rows(read_shapes(runs))}


def test_the_best_are_chosen_by_speed_up_on_one_seed(runs):
    chosen = best(rows(read_shapes(runs, seed=0)), 2)
    assert [(row.shape, row.preset, row.seeds) for row in chosen] == [
        ("deep", "stackbert", 1),
        ("wide", "hyperclone", 1),
    ]


def test_a_directory_without_runs_is_refused(tmp_path):
    with pytest.raises(DataError, match="measure_presets"):
        read_shapes(tmp_path)


def test_the_figure_is_drawn(runs, tmp_path):
    draw_shapes(read_shapes(runs), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_gallery_shows_what_was_measured(runs, tmp_path):
    numbers = tmp_path / "measured.csv"
    numbers.write_text(as_csv(rows(read_shapes(runs))))
    lines = {line.split("`")[1]: line for line in table(CONFIG_DIR / "growth", numbers).splitlines() if "`" in line}
    assert "| 5.00 | 2.00 |" in lines["hyperclone"]
    assert "| 5.00 | never |" in lines["lemon"]
    assert "| 5.00 |  |" in lines["identity"]
    assert "|  |  |" in lines["upcycle"]


def test_a_page_gets_the_new_table_and_keeps_its_words():
    page = "# Page\n\n| preset | old |\n| --- | --- |\n| a | 1 |\n\nWords | and bars.\n"
    changed = with_table(page, "| preset | new |\n| --- | --- |\n| b | 2 |")
    assert changed == "# Page\n\n| preset | new |\n| --- | --- |\n| b | 2 |\n\nWords | and bars.\n"
    with pytest.raises(DataError, match="preset"):
        with_table("# Page\n", "| preset | new |")


def test_the_page_holds_the_table_of_the_numbers_in_the_csv_file():
    with (CONFIG_DIR.parent / "docs" / "growth_measured.csv").open() as file:
        numbers = list(csv.DictReader(file))
    page = (CONFIG_DIR.parent / "docs" / "growth_measured.md").read_text()
    assert {row["preset"] for row in numbers} >= {preset.name for preset in presets(CONFIG_DIR / "growth")}
    lines = [[cell.strip(" `") for cell in line.split("|")] for line in page.splitlines() if line.startswith("| ")]
    shown = {(cells[1], cells[2]): cells for cells in lines if len(cells) == 13}
    for row in numbers:
        cells = shown[row["preset"], row["shape"]]
        assert (cells[3], cells[4]) == (f"{int(row['parameters']):,}", row["seeds"])
        losses = float(row["first_loss"]), float(row["final_loss"])
        assert (float(cells[5]), float(cells[6])) == pytest.approx(losses, abs=1e-3)
