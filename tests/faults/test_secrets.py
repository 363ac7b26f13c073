"""Secrets, however they reach a run, are in no record, no view, no report and no message; other values stay."""

import argparse
import json
import sys

import pytest

from grow.common.errors import ConfigError
from grow.common.printed import say
from grow.common.provenance import Lineage, write_lineage, write_record
from grow.common.records import read_json
from grow.common.redact import redacted
from grow.loggers import wandb_run
from grow.loggers.settings import LoggerSettings
from grow.report.runs import read_run
from grow.training.run_directory import RunDirectory

SECRET = "s3cr3t/Value+of=mine"
ISSUED = "hf_" + "a1B2" * 6
ARGUMENTS = [
    f"hydra.job.env_set.HF_TOKEN={SECRET}",
    f"+hydra.job.env_set.PLAIN={SECRET}",
    f"+hydra.job.env_set={{WANDB_API_KEY: {SECRET}}}",
    f"hydra.job.env_set={{PLAIN: {SECRET}, b: 1}}",
    f"logger.api_key={SECRET}",
    f"--password={SECRET}",
    f"logger={{entity: me, apiKey: {SECRET}}}",
    f"growth.source=https://me:{SECRET}@host/model",
    f"growth.source=s3://me:{SECRET}@bucket/model@main",
    f"growth.source=https://host/model?token={SECRET}&x=1",
    f"growth.source=https://host/model?x=1&access_key={SECRET}",
    f'growth.source=https://host/model?auth="{SECRET}"',
    *(f"logger.tags=[{prefix}{'aB3' * 12}]" for prefix in ("hf_", "sk-", "ghp_", "gho_", "github_pat_", "glpat-")),
    *(f"logger.tags=[mine_{prefix}{'AB3' * 12}]" for prefix in ("xoxb-", "wandb_v1_", "AKIA", "ASIA", "AIza", "ya29.")),
    "logger.tags=[eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl]",
]
NAMES = [
    *("HF_TOKEN", "MY_KEY", "AWS_SECRET_ACCESS_KEY", "SECRET", "DB_PASSWORD", "PGPASSWORD", "LDAP_PASSWD", "db_pwd"),
    *("GCP_CREDENTIAL", "CREDENTIALS", "HTTP_AUTH", "AUTHORIZATION", "GPG_PASSPHRASE", "OPENAI_APIKEY", "TOKEN2"),
]
HARMLESS = [
    *("max_tokens=12345678", "trainer.tokens_per_step=4096", "optimizer.name=keyed", "data.path=a/b", "x=monkey"),
    *("growth.source=org/model@main", "data.tokenizer=some/tokenizer", "https://host:8080/x", "--cfg", "author=me"),
    *(
        "model.kv_heads=1",
        "logger.tags=[turkey,token]",
        "sha=e3b0c44298fc1c149afbf4c8996fb92427ae41e4",
    ),
]
PLACES = {
    "tag": lambda text: {"tags": ["a", text]},
    "middle of a text": lambda text: {"source": f"before-{text}-after"},
    "address": lambda text: {"source": f"https://host/{text}/model"},
    "deep": lambda text: {"a": [{"b": [{"c": text}]}]},
    "argument": lambda text: {"argv": ["train.py", f"logger.group={text}"]},
}


@pytest.fixture
def named(monkeypatch):
    """Put a secret into the environment."""
    monkeypatch.setenv("MY_TOKEN", SECRET)


def leaks(content):
    text = json.dumps(content)
    return SECRET in text or "aB3" in text or "AB3" in text or "eyJhbG" in text


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_no_secret_of_a_command_line_is_in_a_record(argument, tmp_path):
    write_record(tmp_path / "record.json", {"argv": ["train.py", argument]})
    assert not leaks(read_json(tmp_path / "record.json"))


@pytest.mark.parametrize("argument", HARMLESS)
def test_what_is_no_secret_stays(argument):
    assert redacted({"argv": [argument]}) == {"argv": [argument]}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_the_value_of_a_variable_with_a_secrets_name_is_hidden_wherever_it_stands(name, place, monkeypatch, tmp_path):
    monkeypatch.setenv(name, SECRET)
    write_record(tmp_path / "record.json", PLACES[place](SECRET))
    assert not leaks(read_json(tmp_path / "record.json"))


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "MAX_TOKENS", "KEYBOARD", "AUTHOR_NAME", "XAUTHORITY", "X"])
def test_the_value_of_any_other_variable_stays(name, monkeypatch):
    monkeypatch.setenv(name, "hyperclone")
    assert redacted({"growth": "hyperclone"}) == {"growth": "hyperclone"}


@pytest.mark.parametrize("value", ["", "1", "true", "english"])
def test_short_values_occur_by_chance_and_stay(value, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", value)
    assert redacted({"data": f"{value} text"}) == {"data": f"{value} text"}


def test_the_path_of_a_file_is_no_secret(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    assert redacted({"data": f"{tmp_path}/shards"}) == {"data": f"{tmp_path}/shards"}


def start(run, **keys):
    config = {"model": {"name": "tiny"}, "growth": {"source": f"https://me:{SECRET}@host/m"}, "seed": 0, **keys}
    run.start(config, run.check_continues(config, "exact"), model={}, lineage={"source": f"https://host/{SECRET}"})
    return config


def test_run_json_holds_no_secret_of_command_line_environment_tags_or_addresses(tmp_path, monkeypatch, named):
    monkeypatch.setattr(sys, "argv", ["train.py", *ARGUMENTS])
    start(RunDirectory(tmp_path), logger={"tags": [ISSUED, SECRET], "entity": SECRET})
    text = (tmp_path / "run.json").read_text()
    assert not leaks(json.loads(text))
    assert ISSUED not in text


@pytest.mark.parametrize("known_later", [True, False])
def test_a_run_whose_record_hides_secrets_continues_with_the_same_configuration(
    tmp_path, monkeypatch, named, known_later
):
    run = RunDirectory(tmp_path)
    config = start(run, data={"path": "/data/x", "name": f"shards/{SECRET}/x"})
    if not known_later:
        monkeypatch.delenv("MY_TOKEN")
    assert run.check_continues(config, "exact") == []
    with pytest.raises(ConfigError, match=r"data\.name"):
        run.check_continues({**config, "data": {"path": "/data/x", "name": "elsewhere"}}, "exact")


def test_a_run_of_an_earlier_version_that_wrote_its_secrets_continues_and_hides_them_from_then_on(tmp_path, named):
    run = RunDirectory(tmp_path)
    config = start(run)
    (tmp_path / "run.json").write_text(json.dumps({**run.read(), "config": config}))
    assert leaks(run.read())
    assert run.check_continues(config, "exact") == []
    run.finish()
    assert not leaks(run.read())


def test_what_changed_between_two_starts_is_recorded_without_secrets(tmp_path, named):
    run = RunDirectory(tmp_path)
    config = start(run, optimizer={"note": "a"})
    changed = {**config, "optimizer": {"note": SECRET}}
    changes = run.check_continues(changed, "changed")
    assert changes
    assert not leaks(changes)


def test_a_refusal_names_no_secret(tmp_path, named):
    run = RunDirectory(tmp_path)
    config = start(run)
    with pytest.raises(ConfigError) as refused:
        run.check_continues({**config, "model": {"name": SECRET}}, "exact")
    assert not leaks(str(refused.value))


def test_a_lineage_names_no_secret(tmp_path, named):
    write_lineage(tmp_path, Lineage(source=f"https://host/{SECRET}", digest="d", tokens=1, flops=1, seconds=1.0))
    assert not leaks(read_json(tmp_path / "lineage.json"))


def test_what_a_command_says_holds_no_secret(capsys, named):
    say(f"ConfigError: data.path={SECRET}: expected a directory, found none. logger.api_key={SECRET} (see --help)")
    shown = capsys.readouterr().out
    assert not leaks(shown)
    assert "expected a directory, found none." in shown
    assert "(see --help)" in shown


@pytest.mark.parametrize("kind", ["error", "mistake of composition"])
def test_an_error_is_printed_without_the_secret_that_it_quotes(kind, capsys, monkeypatch, named):
    from grow.cli.command import entry_point
    from grow.report.settings import ReportConfig

    @entry_point("report", ReportConfig)
    def task(config):
        raise ConfigError(f"{SECRET}: expected another.")

    overrides = ["runs=a", "output=b"] if kind == "error" else [f"no_such_key={SECRET}"]
    monkeypatch.setattr(sys, "argv", ["report.py", *overrides])
    with pytest.raises(SystemExit) as ended:
        task()
    assert ended.value.code == 2
    assert not leaks(capsys.readouterr().err)


def test_wandb_gets_no_secret_as_name_group_tag_argument_or_configuration(tmp_path, monkeypatch, named):
    sent = []
    run = argparse.Namespace(
        step=0,
        config=argparse.Namespace(update=lambda *given, **_: sent.append(given)),
        define_metric=lambda *_, **__: 0,
    )
    monkeypatch.setattr(
        "wandb.init", lambda **given: sent.append([{**given, "settings": "", "dir": ""}, sys.argv]) or run
    )
    monkeypatch.setattr(sys, "argv", ["train.py", *ARGUMENTS])
    settings = LoggerSettings(name="wandb", views=["wandb"], mode="offline", group=SECRET, tags=[ISSUED, SECRET])
    view = wandb_run.WandbView(settings, tmp_path / SECRET.replace("/", "."))
    view.start({"config": {"tags": [SECRET]}, "lineage": {"source": SECRET}})
    assert len(sent) == 2
    assert not leaks(sent)
    assert ISSUED not in json.dumps(sent)


def test_the_report_of_an_old_run_that_recorded_its_secrets_shows_none(tmp_path, named):
    config = {"growth": {"name": f"hyperclone-{SECRET}"}, "seed": 0, "logger": {"tags": [SECRET]}}
    model = {"parameters": 1, "flops_per_token": 1, "sequence_length": 1}
    lineage = {"source": SECRET, "digest": "d", "tokens": 1, "flops": 1, "seconds": 1}
    (tmp_path / "run.json").write_text(
        json.dumps({"name": SECRET, "config": config, "model": model, "lineage": lineage})
    )
    (tmp_path / "growth.json").write_text(json.dumps({"source": {"source": SECRET}}))
    row = {"step": 0, "tokens": 0, "flops": 0, "seconds": 0, "val/loss": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    run = read_run(tmp_path)
    assert not leaks([run.name, run.label, run.config, run.growth, run.lineage.source])
