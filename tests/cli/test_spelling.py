"""Numbers of tokens, paths and `auto` are taken as people write them, from the command line and in sweeps."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from grow.cli.config import compose
from grow.cli.spelling import LISTS_OF_PATHS, PATHS, spelled
from grow.common.errors import ConfigError, DataError
from grow.evaluation.settings import EvalConfig
from grow.report.settings import ReportConfig
from tests.training.tiny import VOCAB, make_shards

NUMBERS = {
    "1000000": 10**6,
    "1_000_000": 10**6,
    "1e6": 10**6,
    "1E6": 10**6,
    "1e+6": 10**6,
    "2.5e9": 2_500_000_000,
    "2.5B": 2_500_000_000,
    "4k": 4000,
    "10M": 10**7,
    "10m": 10**7,
    "300B": 300 * 10**9,
    "1_0M": 10**7,
    "2T": 2 * 10**12,
    "0.5M": 500_000,
    "'1e6'": 10**6,
}
NO_NUMBERS = ["1.5", "1e-3", "300X", "10 M", "M", "1e", "many", "1.0001k", "1M5", "0x10", "true", "[1M]"]
PATHS_AS_WRITTEN = [
    "a=b (1)",
    "it's",
    'say "x"',
    "a,b",
    "[x]",
    "a[0]",
    "{x}",
    "a{1}",
    "1e6",
    "007",
    "true",
    "x y",
    " x",
    "x ",
    "a#b",
    "héllo",
    "a&b;c|d",
    "a*?",
    "a\\",
    "a\\'b",
    "$HOME",
    "choice(a,b)",
    "~",
    "x:y",
    "NAME@main",
    "'",
    "a'b'c",
    "-x",
    "+x",
    "%j",
]


@pytest.mark.parametrize(("written", "tokens"), NUMBERS.items())
def test_a_number_of_tokens_may_be_written_as_people_do(written, tokens):
    (override,) = spelled("train", [f"trainer.max_tokens={written}"])
    assert int(OverridesParser.create().parse_override(override).value()) == tokens


def test_every_key_of_tokens_takes_such_numbers_and_no_other_key_does():
    config = compose(["trainer.max_tokens=2M", "++trainer.tokens_per_step=8192", "checkpoint.every_tokens=1e5"])
    assert (config.trainer.max_tokens, config.checkpoint.every_tokens) == (2_000_000, 100_000)
    assert compose(["data.damaged_tokens=[1k,2k]"]).data.damaged_tokens == [1000, 2000]
    with pytest.raises(ConfigError, match="seed"):
        compose(["seed=1k"])


@pytest.mark.parametrize("written", NO_NUMBERS)
def test_anything_else_is_one_sentence_with_the_forms_there_are(written):
    with pytest.raises(ConfigError, match=r"trainer\.max_tokens: .*1e6, 2\.5e9, 4k, 10M, 300B"):
        compose([f"trainer.max_tokens={written}"])


def test_a_sweep_takes_several_such_numbers():
    for written in ("1M,2M", "choice(1e6,2e6)"):
        (_, override) = spelled("train", ["-m", f"trainer.max_tokens={written}"])
        assert list(OverridesParser.create().parse_override(override).sweep_iterator()) == [10**6, 2 * 10**6]


@pytest.mark.parametrize("path", PATHS_AS_WRITTEN)
def test_a_path_may_have_any_character(path):
    (override,) = spelled("train", [f"run_dir={path}"])
    assert OverridesParser.create().parse_override(override).value() == path


def test_paths_reach_the_configuration(monkeypatch):
    run = compose(["run_dir=a=b (1)", "data.path=it's", "model=tiny_2x", "growth=hyperclone", "growth.source=a,b"])
    assert (run.run_dir, run.data.path, run.growth.source) == ("a=b (1)", "it's", "a,b")
    assert compose(["checkpoint=a=b (1)"], "eval", EvalConfig).names == ["a=b (1)"]
    report = compose(["runs=[a=b,'c,d',e (1)]", "baseline=x=y", "output=o o"], "report", ReportConfig)
    assert (report.runs, report.baseline) == (["a=b", "c,d", "e (1)"], ["x=y"])
    monkeypatch.setenv("HOME", "/home/me")
    assert compose(["run_dir=~/x"]).run_dir == "/home/me/x"


def test_what_means_something_to_hydra_still_does(monkeypatch):
    monkeypatch.setenv("WHERE", "/there")
    assert compose(["run_dir=${oc.env:WHERE}/x"]).run_dir == "/there/x"
    assert compose(["run_dir=null"]).run_dir is None
    assert compose(["run_dir='a b'"]).run_dir == "a b"


def test_a_sweep_over_paths_is_still_one():
    for written, paths in {"a,b": ["a", "b"], "a=1,b=2": ["a=1", "b=2"], "a (1),b": ["a (1)", "b"]}.items():
        (_, override) = spelled("train", ["-m", f"run_dir={written}"])
        swept = OverridesParser.create().parse_override(override).value().list
        assert [getattr(item, "text", item) for item in swept] == paths


def test_the_keys_of_paths_are_keys_of_configurations():
    grow = Path(__file__).parents[2] / "grow"
    text = "\n".join(path.read_text() for path in [*grow.rglob("*settings.py"), grow / "cli/run_config.py"])
    for key in PATHS | LISTS_OF_PATHS:
        assert f"    {key.rpartition('.')[2]}: " in text, key


def test_the_vocabulary_may_be_that_of_the_data(tmp_path):
    make_shards(tmp_path)
    run = compose(["data=shards", f"data.path={tmp_path}", "model.vocab_size=auto"])
    assert run.model.vocab_size == run.resolved()["model"]["vocab_size"] == VOCAB
    with pytest.raises(DataError, match="expected a directory of token shards"):
        compose(["data=shards", "data.path=/nowhere", "model.vocab_size=auto"])


def test_a_corpus_that_is_not_prepared_yet_has_the_vocabulary_that_it_will_have(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compose(["model.vocab_size=auto"]).model.vocab_size == 4096


def test_flags_may_stand_anywhere():
    given = ["growth=none", "-m", "seed=0,1", "--config-dir", "a=b", "--cfg", "job", "~model"]
    assert spelled("train", given) == ["-m", "--config-dir", "a=b", "--cfg", "job", "growth=none", "seed=0,1", "~model"]
