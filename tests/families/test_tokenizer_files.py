"""Tokenizers in exported directories: Transformers 4 and 5 both load them, with the model's length and a pad token."""

import json

import pytest
from transformers import AutoTokenizer

from grow.common.errors import CheckpointError
from grow.data.tokenizer import END_OF_TEXT, save_tokenizer, train_tokenizer
from grow.data.tokenizer_config import make_portable
from grow.families.tokenizer_files import copy_tokenizer


@pytest.fixture
def source(tmp_path):
    save_tokenizer(train_tokenizer(["a text to learn from"], 300), tmp_path / "source")
    return tmp_path / "source"


def copied(source, target, **config):
    target.mkdir()
    (target / "config.json").write_text(json.dumps(config))
    copy_tokenizer(source, target)
    return json.loads((target / "tokenizer_config.json").read_text())


def test_an_exported_tokenizer_has_a_class_that_both_versions_know_the_models_length_and_a_pad_token(source, tmp_path):
    settings = copied(source, tmp_path / "target", max_position_embeddings=64)
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_max_length"] == 64
    assert settings["pad_token"] == settings["eos_token"] == END_OF_TEXT
    assert not isinstance(settings.get("extra_special_tokens"), list)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "target", trust_remote_code=False)
    assert (tokenizer.model_max_length, tokenizer.pad_token, tokenizer.eos_token_id) == (64, END_OF_TEXT, 0)
    assert len(tokenizer(["a text to learn from", "a"], padding=True)["input_ids"][1]) > 1


def test_the_tokenizer_of_prepared_data_has_that_class_too(source):
    assert json.loads((source / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_what_a_tokenizer_says_itself_is_kept(source, tmp_path):
    path = source / "tokenizer_config.json"
    own = {"tokenizer_class": "GPTNeoXTokenizer", "model_max_length": 32, "pad_token": "<pad>", "clean_up": True}
    path.write_text(json.dumps(own))
    assert copied(source, tmp_path / "target", max_position_embeddings=64) == own


def test_special_tokens_under_the_name_that_only_version_5_knows_are_kept_under_the_older_one(source, tmp_path):
    path = source / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "extra_special_tokens": ["<a>", "<b>"]}))
    assert copied(source, tmp_path / "target")["additional_special_tokens"] == ["<a>", "<b>"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "target", trust_remote_code=False)
    assert {"<a>", "<b>"} <= set(tokenizer.all_special_tokens)


def test_a_tokenizer_without_a_configuration_is_copied_as_it_is(source, tmp_path):
    (source / "tokenizer_config.json").unlink()
    (tmp_path / "target").mkdir()
    copy_tokenizer(source, tmp_path / "target")
    assert not (tmp_path / "target" / "tokenizer_config.json").exists()


@pytest.mark.parametrize("content", ["[]", "3", "null", "{", ""])
def test_a_damaged_configuration_is_a_sentence(source, content):
    (source / "tokenizer_config.json").write_text(content)
    with pytest.raises(CheckpointError):
        make_portable(source)
