"""eval.py as a command: one and three processes agree to the last bit, results have a place, mistakes a code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grow.cli.config import EvalConfig, compose
from grow.evaluation.catalogue import TASKS
from tests.data.conftest import make_sentences, write_json_lines
from tests.evaluation.made import make_items, make_model, make_tokenizer
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3")


def command(*arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, *arguments], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=1200)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model with its tokenizer, items of every task, and token shards."""
    from grow.preparation.prepare import prepare
    from grow.preparation.prepare_options import Options

    directory = tmp_path_factory.mktemp("place")
    make_model("llama").save_pretrained(directory / "model")
    make_tokenizer(directory / "model")
    make_items(directory / "items")
    texts = write_json_lines(directory / "texts.jsonl", make_sentences(150, seed=3))
    options = Options(tokenizer=str(directory / "model"), vocab_size=None, shard_tokens=3000)
    prepare([str(texts)], directory / "shards", options)
    return directory


SOME = ("arc_easy", "lambada_openai", "winogrande", "logiqa")  # a task of each shape


def arguments(place: Path, *more: str) -> list[str]:
    return [
        *("eval.py", f"checkpoint={place / 'model'}", f"evaluation.tasks=[{','.join(SOME)}]", "accelerator=cpu"),
        *(
            f"evaluation.data_dir={place / 'items'}",
            f"heldout={place / 'shards'}",
            "evaluation.batch_tokens=256",
            *more,
        ),
    ]


@pytest.mark.slow
def test_three_processes_give_the_results_of_one_to_the_last_bit(place, tmp_path):
    one = command(*arguments(place, f"output={tmp_path / 'one'}"))
    assert one.returncode == 0, one.stderr
    assert "held out: texts" in one.stdout
    three = command(*TORCHRUN, *arguments(place, f"output={tmp_path / 'three'}"), python=warm_python())
    assert three.returncode == 0, three.stderr
    assert three.stdout.count("Wrote") == 1
    (first,), (second,) = (list((tmp_path / name).iterdir()) for name in ("one", "three"))
    assert {path.stem for path in first.iterdir()} == {*SOME, "results"}
    for task in SOME:
        assert json.loads((first / f"{task}.json").read_text()) == json.loads((second / f"{task}.json").read_text())
    results = [json.loads((path / "results.json").read_text()) for path in (first, second)]
    for result in results:
        del result["evaluation_seconds"], result["git_commit"]
    assert results[0] == results[1]
    assert len(results[0]["tasks"]["logiqa"]["prompts_sha256"]) == 64


@pytest.mark.slow
def test_several_checkpoints_of_a_run_make_a_trend_in_its_own_rows(place, tmp_path):
    run = tmp_path / "run"
    for step in (3, 5):
        folder = run / "checkpoints" / f"step-{step:08}"
        shutil.copytree(place / "model", folder)
        (folder / "state.json").write_text(
            json.dumps({"step": step, "tokens": 10 * step, "flops": 1000 * step, "seconds": 1.0})
        )
        (folder / "COMPLETE.json").write_text("{}")
    facts = {"model": {"flops_per_token": 100, "sequence_length": 32}, "data": {"path": str(place / "shards")}}
    (run / "run.json").write_text(json.dumps({"config": {}, **facts}))
    listed = ",".join(str(path) for path in sorted(run.glob("checkpoints/*")))
    found = command(
        *("eval.py", f"checkpoint=[{listed}]", "evaluation=heldout", "evaluation.tasks=[copa]", "accelerator=cpu"),
        f"evaluation.data_dir={place / 'items'}",
        python=warm_python(),
    )
    assert found.returncode == 0, found.stderr
    rows = [json.loads(line) for line in (run / "eval" / "metrics.jsonl").read_text().splitlines()]
    assert [row["tokens"] for row in rows] == [30, 50]
    assert {"eval/copa/acc", "eval/mean/acc", "eval/heldout/texts/bits_per_byte", "flops"} <= rows[0].keys()
    assert "step-00000003" in found.stdout


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["evaluation.tasks=[arc_esy]"], 2, "Did you mean arc_easy?"),
        (["evaluation=harness9"], 2, "Did you mean harness"),
        (["checkpoint=[]"], 2, "expected a run directory"),
        (["precision=fp8"], 2, "expected one of auto, fp32, bf16"),
        (["checkpoint=does/not/exist"], 77, "no such directory"),
        (["evaluation.num_fewshot=5"], 2, "no items of arc_easy, lambada_openai, winogrande, logiqa but those that"),
        (["evaluation.data_dir=nowhere"], 77, "fetch_eval_data.py"),
        (["damaged"], 77, "has changed since it was fetched"),
        (["untokenized"], 77, "expected a tokenizer.json"),
    ],
)
def test_a_mistake_is_one_paragraph_and_an_exit_code(place, tmp_path, more, code, says, capsys, monkeypatch):
    import eval as entry

    if more == ["damaged"]:
        shutil.copytree(place / "items", tmp_path / "items")
        (tmp_path / "items" / "winogrande" / "validation.jsonl").write_text("{}\n")
        more = [f"evaluation.data_dir={tmp_path / 'items'}"]
    if more == ["untokenized"]:
        shutil.copytree(place / "model", tmp_path / "model")
        (tmp_path / "model" / "tokenizer.json").unlink()
        more = [f"checkpoint={tmp_path / 'model'}"]
    given = {part.partition("=")[0]: part for part in [*arguments(place)[1:], *more]}
    monkeypatch.setattr(sys, "argv", ["eval.py", *given.values()])
    with pytest.raises(SystemExit) as exit_:
        entry.main()
    assert exit_.value.code == code
    errors = capsys.readouterr().err
    assert says in errors
    assert "Traceback" not in errors
    assert len(errors.strip().splitlines()) == 1


def test_every_evaluation_composes():
    for name in ("harness10", "harness8", "fast", "heldout"):
        assert compose(["checkpoint=x", f"evaluation={name}"], "eval", EvalConfig).names == ["x"]
    ten = compose(["checkpoint=[x,y]", "evaluation=harness10"], "eval", EvalConfig)
    assert len(ten.evaluation.tasks) == 10
    assert set(TASKS) - set(ten.evaluation.tasks) == {"boolq", "copa"}


def test_help_names_the_choices_before_anything_heavy_is_imported():
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in ("torch", "transformers", "lm_eval", "datasets"))
    code = (
        f"import runpy, sys; {blocked}sys.argv = ['eval.py', '--help']; runpy.run_path('eval.py', run_name='__main__')"
    )
    answer = command("-c", code)
    assert answer.returncode == 0, answer.stderr
    assert "harness10" in answer.stdout
