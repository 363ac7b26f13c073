"""Held-out text: the loss is the model's own, bytes are those of the text, and each source is measured separately."""

import math

import pytest
import torch
from torch.nn import functional

from grow.data.shards import TokenShards
from grow.data.tokenizer import bytes_per_token
from grow.evaluation.heldout import measure_heldout
from grow.evaluation.scoring import Scorer
from tests.data.conftest import make_sentences, prepare_files_small, write_json_lines
from tests.evaluation.made import make_tokenizer

LENGTH = 32


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> TokenShards:
    directory = tmp_path_factory.mktemp("heldout")
    make_tokenizer(directory / "tokenizer")
    first = write_json_lines(directory / "first.jsonl", make_sentences(150, seed=3))
    second = write_json_lines(directory / "second.jsonl", make_sentences(150, seed=4), source="web")
    given = {"tokenizer": str(directory / "tokenizer"), "vocab_size": None}
    return prepare_files_small(directory / "shards", first, second, **given)


def measure(model, tokenizer, shards, **changes):
    options = {"sequence_length": LENGTH, "tokens": 10_000, "batch_tokens": 256} | changes
    options.setdefault("show_progress", lambda *_: None)
    return measure_heldout(Scorer(model=model, device=torch.device("cpu")), tokenizer, shards, **options)


def test_the_loss_of_each_source_is_the_mean_over_its_own_windows(model, tokenizer, shards):
    found = measure(model, tokenizer, shards)
    assert set(found) == {"first", "web"}
    for source, held in found.items():
        windows = []
        for shard in shards.shards:
            if (shard.split, shard.source) == ("validation", source):
                ids = torch.tensor(shards.read(shard).astype("int64"))
                windows += [ids[start : start + LENGTH + 1] for start in range(0, len(ids) - LENGTH, LENGTH)]
        stacked = torch.stack(windows)
        with torch.no_grad():
            logits = model(stacked[:, :-1]).logits
        expected = functional.cross_entropy(logits.flatten(0, 1), stacked[:, 1:].flatten()).item()
        assert held.tokens == stacked[:, 1:].numel()
        assert held.loss == pytest.approx(expected, rel=1e-5)
        assert held.perplexity == pytest.approx(math.exp(expected), rel=1e-4)


def test_bits_per_byte_count_the_bytes_of_the_text(model, tokenizer, shards):
    text = make_sentences(1, seed=9)[0] + " naïve — 漢字"
    ids = tokenizer(text)["input_ids"]
    assert int(bytes_per_token(tokenizer)[ids].sum()) == len(text.encode())
    assert bytes_per_token(tokenizer)[tokenizer.eos_token_id] == 0
    held = measure(model, tokenizer, shards)["first"]
    bytes_a_token = held.loss / math.log(2) / held.bits_per_byte
    assert 1 < bytes_a_token < 8


def test_fewer_tokens_read_fewer_windows_and_always_the_same_ones(model, tokenizer, shards):
    few = measure(model, tokenizer, shards, tokens=3 * LENGTH)
    assert few["first"].tokens == 3 * LENGTH
    assert few == measure(model, tokenizer, shards, tokens=3 * LENGTH)
    assert few["first"].loss != measure(model, tokenizer, shards)["first"].loss
