"""The verdict and its files: numbers, tables, figure and page, and the command that makes them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from grow.common.errors import ConfigError
from grow.report import wording
from grow.report.publish import as_html, as_json, as_markdown, publish
from grow.report.settings import ReportConfig
from grow.report.speedup import SpeedupOutcome
from grow.report.speedup_figure import draw, draw_arm, loss_range
from grow.report.verdict import judge

ROOT = Path(__file__).parents[2]


def cells(verdict, row):
    return wording.speedup_table(verdict)[1][row]


def test_the_three_accountings_of_a_grown_run_stand_side_by_side(three_roles):
    (arm,) = judge(**three_roles, amortised_over=2).arms
    ratios = {key: arm.speedups["tokens", key].speedup.speedup for key in "FIA"}
    assert ratios == {"F": 2.0, "I": 4000 / 2500, "A": pytest.approx(4000 / 2250)}


def test_one_seed_says_that_there_is_no_interval(three_roles):
    verdict = judge(**three_roles)
    assert cells(verdict, 0) == [
        "hyperclone_noisy", "n=1, no interval", "3.7000", "F: source free", *["2.00x, saves 50%"] * 3,
    ]  # fmt: skip


def test_three_seeds_carry_an_interval(three_roles, make_run, source):
    for seed, last in ((1, 3.9), (2, 3.95)):
        losses = [5.0, 4.6, 4.2, last, 3.7]
        run = make_run(f"grown-{seed}", losses, growth="hyperclone_noisy", source=source, seed=seed)
        three_roles["runs"].append(str(run))
    (arm,) = (verdict := judge(**three_roles)).arms
    measured = arm.speedups["tokens", "F"]
    assert measured.interval[0] < measured.speedup.speedup < measured.interval[1]
    assert cells(verdict, 0)[1] == "n=3"
    assert "[" in cells(verdict, 0)[4]
    assert arm.advantages[0].interval[0] > 0


def test_an_unknown_source_is_called_unknown_and_never_free(three_roles, make_run, unknown_source):
    run = make_run("hub", [5.0, 4.5, 4.0], growth="hyperclone", source=unknown_source)
    verdict = judge(**three_roles | {"runs": [run]})
    assert verdict.arms[0].speedups["flops", "I"].speedup.outcome is SpeedupOutcome.UNKNOWN
    assert [cells(verdict, row)[5] for row in range(3)] == [
        "2.00x, saves 50%",
        "unknown: the source's cost was not recorded",
        "unknown: the source's cost was not recorded",
    ]


def test_never_reached_and_already_there_are_said_in_words(three_roles, make_run, source):
    short = make_run("short", [5.0, 4.5], growth="slow", source=source)
    ready = make_run("ready", [3.9, 3.8], growth="ready", source=source)
    verdict = judge(**three_roles | {"runs": [short, ready]})
    assert cells(verdict, 0)[4] == "never reached, 0.500 nats short"
    assert cells(verdict, 3)[4] == "already there at the first step, at no cost"
    assert cells(verdict, 4)[4] == "8.00x, saves 88%, already there at the first step"


def test_a_slower_run_is_said_to_cost_more(three_roles, make_run, source):
    slow = make_run("slow", [8, 7, 6, 5, 4.5, 4.0], growth="slow", source=source)
    assert cells(judge(**three_roles | {"runs": [slow]}), 0)[4] == "0.80x, costs 25% more"


def test_a_grown_run_is_compared_with_the_source_trained_further_at_equal_tokens(three_roles):
    tokens, _ = judge(**three_roles).arms[0].advantages
    assert (tokens.nats, tokens.cost) == (pytest.approx(0.2), 4000)
    assert wording.advantage_sentence(tokens) == "beats training the source further by 0.200 nats at equal tokens"


def test_a_grown_run_that_ends_above_the_source_trained_further_gained_nothing(three_roles, make_run, source):
    run = make_run("worse", [5.0, 4.5, 4.2, 4.1, 4.0], growth="worse", source=source)
    tokens, _ = judge(**three_roles | {"runs": [run]}).arms[0].advantages
    assert wording.advantage_sentence(tokens).startswith("gained nothing: 0.100 nats worse")


def test_at_equal_flops_both_are_compared_where_the_cheaper_source_ended(three_roles, tmp_path):
    metrics = tmp_path / "continued" / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    metrics.write_text("".join(json.dumps(row | {"flops": row["flops"] / 4}) + "\n" for row in rows))
    _, flops = judge(**three_roles).arms[0].advantages
    assert (flops.cost, flops.nats) == (600_000, pytest.approx(3.9 - 4.5))
    assert "gained nothing" in wording.advantage_sentence(flops)
    assert "where the source's training ended" in wording.advantage_sentence(flops)


@pytest.fixture
def busy(three_roles, make_run, source):
    """(slower) -> the roles, with one more arm that trained so many times slower at equal FLOPs a token."""

    def roles(slower):
        losses = [5.0, 4.5, 4.0, 3.8, 3.7]
        run = make_run(f"busy-{slower}", losses, growth="hyperclone", source=source, slower=slower)
        return three_roles | {"runs": [*three_roles["runs"], run]}

    return roles


@pytest.mark.parametrize("slower", [1.2, 0.8])
def test_time_is_left_out_everywhere_where_an_arm_ran_on_a_busy_machine(busy, tmp_path, slower):
    verdict = judge(**busy(slower))
    names = ("hyperclone", "from noise") if slower > 1 else ("from noise", "hyperclone")
    assert f"Time is left out: {names[0]} trained at" in verdict.time_left_out
    assert f"and {names[1]} at" in verdict.time_left_out
    header, rows = wording.speedup_table(verdict)
    assert {row[header.index("time")] for row in rows} == {"left out: not measured alike"}
    assert {row[header.index("tokens")] for row in rows} != {"left out: not measured alike"}
    found = as_json(verdict)
    assert found["time_left_out"] == verdict.time_left_out
    assert {tuple(arm["speedup"]) for arm in found["arms"]} == {("tokens", "flops")}
    for text in (wording.target_sentence(verdict), as_markdown(verdict), as_html(verdict, b"")):
        assert verdict.time_left_out in text
    assert len(drawn(verdict, tmp_path).axes) == 2


def test_time_is_compared_where_arms_trained_at_like_speeds(busy, tmp_path):
    verdict = judge(**busy(1.1))
    assert verdict.time_left_out is as_json(verdict)["time_left_out"] is None
    assert cells(verdict, 0)[6] == "2.00x, saves 50%"
    assert len(drawn(verdict, tmp_path).axes) == 3


def test_arms_of_other_flops_a_token_may_train_at_other_speeds(three_roles, tmp_path):
    metrics = tmp_path / "continued" / "metrics.jsonl"  # the source is smaller and faster
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows = [row | {"flops": row["flops"] / 4, "seconds": row["seconds"] / 3} for row in rows]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert judge(**three_roles).time_left_out is None


def drawn(verdict, tmp_path):
    """Return the figure that `draw` draws."""
    with pytest.MonkeyPatch.context() as patch:
        figures = []
        patch.setattr(Figure, "savefig", lambda self, *args, **kwargs: figures.append(self))
        draw(verdict, tmp_path / "figure.png")
    return figures[0]


def test_missing_baselines_are_shown_as_missing(three_roles):
    verdict = judge(three_roles["runs"])
    assert cells(verdict, 0)[4] == "baseline missing (baseline=DIR)"
    assert wording.continued_table(verdict)[1][0][1] == "missing (continued=DIR)"
    assert "no target loss" in as_markdown(verdict)
    assert "baseline=DIR" in as_html(verdict, b"")


def test_other_data_or_models_than_the_baselines_are_called_not_comparable(three_roles, make_run, source):
    run = make_run("other", [5.0, 4.5, 4.0], growth="h", source=source, config={"data": {"name": "dolma"}})
    (note, *_) = judge(**three_roles | {"runs": [run]}).arms[0].notes
    assert note == "NOT COMPARABLE with the baseline: data.name=dolma (baseline english)."


def test_another_objective_is_called_not_comparable_but_other_chunks_of_it_are_not(three_roles, make_run, source):
    def notes(**objective):
        run = make_run(
            objective["name"], [5.0, 4.5, 4.0, 3.8, 3.7], growth="h", source=source, config={"objective": objective}
        )
        return judge(**three_roles | {"runs": [run]}).arms[0].notes

    for baseline in three_roles["baseline"]:
        file = Path(baseline) / "run.json"
        facts = json.loads(file.read_text())
        facts["config"]["objective"] = {"name": "next_token", "chunk_rows": None}
        file.write_text(json.dumps(facts))
    (note,) = notes(name="z_loss", chunk_rows=None)
    assert note == "NOT COMPARABLE with the baseline: objective.name=z_loss (baseline next_token)."
    (note,) = notes(name="next_token", chunk_rows=64)
    assert note == "Also differs from the baseline in objective.chunk_rows=64 (baseline None)."


def test_a_comparable_finished_run_has_no_notes(three_roles):
    assert judge(**three_roles).arms[0].notes == []


def test_unfinished_runs_and_other_sources_are_noted(three_roles, make_run, source):
    trainer = {"max_tokens": 9000, "tokens_per_step": 100, "val_tokens": 512}
    run = make_run("cut", [5, 4.5], growth="h", source=source | {"digest": "d2"}, config={"trainer": trainer})
    notes = " ".join(judge(**three_roles | {"runs": [run]}).arms[0].notes)
    assert "Unfinished: cut was validated up to 1,000 of 9,000 tokens" in notes
    assert "digests differ" in notes


def test_runs_that_share_a_seed_are_noted(three_roles, make_run, source):
    again = make_run("again", [5.0, 4.5, 4.0, 3.8, 3.7], growth="hyperclone_noisy", source=source)
    assert "share a seed" in " ".join(judge(**three_roles | {"runs": [*three_roles["runs"], again]}).arms[0].notes)


def test_the_json_holds_the_contract_key_and_the_outcomes(three_roles):
    (arm,) = as_json(judge(**three_roles))["arms"]
    assert arm["speedup/tokens_to_target"] == 2000
    assert arm["speedup"]["flops"]["I"]["cost_run"] == 2000 * 600 + 150_000
    assert arm["speedup"]["tokens"]["F"]["outcome"] == "reached"


def test_all_files_are_written_and_the_page_holds_the_figure(three_roles, tmp_path):
    paths = publish(judge(**three_roles), tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["speedup.json", "speedup.md", "speedup.png", "report.html"]
    assert json.loads(paths[0].read_text())["baseline"]["final_loss"] == 4.0
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    page = paths[3].read_text()
    assert "data:image/png;base64,iVBOR" in page
    assert "http" not in page.replace("http-equiv", "")
    for text in ("2.00x", "1e-06", "d1", "torch 2.11", "0123456789ab"):
        assert text in page


def test_a_figure_is_drawn_without_baselines_and_with_a_dollar_in_a_label(make_run, source, tmp_path):
    run = make_run("odd", [5.0, 4.5], growth="a$b_$", source=source)
    assert publish(judge([run]), tmp_path / "out")[2].exists()


def test_the_table_has_a_column_of_the_average_where_a_run_has_one(three_roles, make_run, source):
    assert "averaged weights" not in wording.speedup_table(judge(**three_roles))[0]
    run = make_run("lawa", [5.0, 4.5, 4.0], growth="averaged", source=source, averaged=[4.4, 3.9])
    verdict = judge(**three_roles | {"runs": [*three_roles["runs"], run]})
    header, rows = wording.speedup_table(verdict)
    assert {len(row) for row in rows} == {len(header)}
    assert [row[header.index("averaged weights")] for row in rows] == ["none", "", "", "3.9000", "", ""]
    assert "3.9000" in as_markdown(verdict)
    assert [arm["final_loss_of_average"] for arm in as_json(verdict)["arms"]] == [None, 3.9]


def test_the_averaged_curve_is_dashed_in_its_arms_colour_and_has_room(make_run):
    verdict = judge([make_run("a", [8.0, 6.0, 5.0], averaged=[5.5, 2.0])])
    panel = Figure().subplots()
    (arm,) = (judged.arm for judged in verdict.arms)
    draw_arm(panel, "tokens", arm, 1.0, {"color": "#0072B2", "marker": "D"})
    live, dashed = panel.get_lines()
    assert (live.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert live.get_color() == dashed.get_color()
    assert dashed.get_ydata()[1:].tolist() == [5.5, 2.0]
    assert loss_range(verdict)[0] < 2.0


def test_a_run_without_averages_is_drawn_as_one_line(make_run):
    (judged,) = judge([make_run("a", [8.0, 6.0])]).arms
    panel = Figure().subplots()
    draw_arm(panel, "tokens", judged.arm, 1.0, {"color": "#0072B2", "marker": "D"})
    assert len(panel.get_lines()) == 1


def test_a_hostile_name_is_escaped_on_the_page_and_in_the_table(three_roles, make_run, source):
    attack = "<script>alert('x')</script>|"
    run = make_run("odd", [5.0, 4.5], growth=attack, source=source | {"source": attack}, name=attack)
    verdict = judge(**three_roles | {"runs": [run]})
    assert "<script" not in as_html(verdict, b"")
    assert "&lt;script&gt;" in as_html(verdict, b"")
    assert "<script" not in as_markdown(verdict)
    assert "\\|" in as_markdown(verdict)


def test_an_output_that_cannot_be_a_directory_is_a_config_error(three_roles, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a directory to write to"):
        publish(judge(**three_roles), tmp_path / "file")


def test_a_single_directory_stands_for_a_list_of_one():
    config = ReportConfig(runs="a", baseline=["b", "c"], output="out")
    assert (config.runs, config.baseline, config.continued) == (["a"], ["b", "c"], [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": []}, "at least one run directory"),
        ({"runs": 3}, "expected a run directory or a list"),
        ({"runs": ["a", "./a"]}, "named more than once"),
        ({"runs": "a", "baseline": "a"}, "named more than once"),
        ({"runs": "a", "amortised_over": 0}, "at least 1"),
    ],
)
def test_an_impossible_request_is_a_config_error(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        ReportConfig(output="out", **changes)
    assert caught.value.exit_code == 2


def command(*overrides):
    line = [sys.executable, str(ROOT / "scripts" / "report.py"), *overrides]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)


def test_the_command_prints_the_table_and_writes_the_files(three_roles, tmp_path):
    roles = [f"{role}=[{','.join(paths)}]" for role, paths in three_roles.items()]
    done = command(*roles, f"output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "2.00x" in done.stdout
    assert (tmp_path / "out" / "report.html").exists()


def test_the_command_ends_in_one_line_and_the_exit_code_of_the_mistake(tmp_path):
    done = command(f"runs={tmp_path / 'nowhere'}", f"output={tmp_path / 'out'}")
    assert done.returncode == 77
    assert done.stderr.startswith("CheckpointError: ")
    assert len(done.stderr.splitlines()) == 1


def test_importing_the_report_imports_no_training_library():
    code = (
        "import sys, grow.report.publish, grow.report.verdict;"
        "print(sorted({'torch', 'lightning', 'transformers', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
