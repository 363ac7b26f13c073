"""Help, --cfg job and every configuration error answer before anything heavy is imported; exit codes; the contract."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "lightning", "transformers", "deepspeed")
PROBE = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("HEAVY", [name for name in {heavy} if name in sys.modules])
"""


def _run(*arguments, script="train.py"):
    probe = PROBE.format(heavy=HEAVY)
    return subprocess.run(
        [sys.executable, "-c", probe, str(ROOT / script), *arguments], capture_output=True, text=True, cwd=ROOT
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--help"], 0, "hyperclone_noisy"),
        (["--cfg", "job"], 0, "max_tokens: 1000000"),
        (["growth=hyperclon"], 2, "ConfigError: growth=hyperclon: no such option. Did you mean hyperclone?"),
        (["trainer.max_tokns=1"], 2, "ConfigError: trainer.max_tokns: no such key"),
        (["+trainer.max_tokns=1"], 2, "ConfigError:"),
        (["+nonsense=1"], 2, "ConfigError:"),
        (["growth=none", "growth.source=x"], 2, "ConfigError: growth.*"),
        (["growth=hyperclone"], 2, "ConfigError: growth=hyperclone needs a model to grow from"),
        (["trainer.micro_batch=7"], 2, "ConfigError: trainer.tokens_per_step=4096: expected a multiple"),
        (["data=shards"], 2, "ConfigError: data.path has no value"),
        (["trainer.max_tokens=["], 2, "ConfigError:"),
        (["data=shards", "data.path=nowhere"], 77, "DataError: nowhere: expected a directory of token shards"),
        (["data=shards", "data.path=data", "model.vocab_size=auto"], 77, "DataError: data: expected"),
        (["growth=hyperclone", "model=tiny_2x", "growth.source=./sorce"], 77, "CheckpointError: ./sorce: no such"),
        (["growth=hyperclone", "model=tiny_2x", "growth.source=sorce"], 77, "CheckpointError: sorce: no such"),
        (["run_dir=train.py"], 2, "ConfigError: run_dir=train.py: expected a directory or nothing yet, found a file"),
    ],
)
def test_train_answers_without_heavy_imports_in_one_paragraph_with_its_exit_code(arguments, code, says):
    done = _run(*arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "HEAVY []" in done.stdout


@pytest.mark.parametrize("script", ["scripts/grow_checkpoint.py", "scripts/report.py", "scripts/prepare_data.py"])
def test_the_other_commands_answer_a_missing_argument_alike(script):
    done = _run(script=script)
    assert done.returncode == 2
    assert "ConfigError:" in done.stderr
    assert "Traceback" not in done.stderr
    assert "HEAVY []" in done.stdout


def test_the_sources_of_every_package_import_downwards_only():
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_every_file_opens_with_its_purpose_and_stays_readable():
    for path in [*ROOT.glob("grow/**/*.py"), *ROOT.glob("scripts/*.py"), ROOT / "train.py"]:
        text = path.read_text()
        assert text.startswith('"""'), path
        assert len(text.splitlines()) <= 300, path
