"""An inspection shows what train.py reads, and what the sources hold."""

import json
from itertools import islice

import numpy as np
import pytest

from grow.cli.config import compose
from grow.common.errors import ConfigError
from grow.data.data_module import TokenDataModule
from grow.data.manifest import Shard
from grow.data.mixture import Mixture
from grow.data.run_order import run_order
from grow.data.shard_files import ShardFiles
from grow.data.shards import TokenShards
from grow.data.tokenizer import load_tokenizer
from grow.data.windows import Windows
from grow.inspection.settings import InspectDataConfig
from grow.inspection.statistics import repeated_share, source_statistics
from tests.data.conftest import make_sentences, prepare_files_small, write_json_lines


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> TokenShards:
    """Shards of two sources."""
    made = tmp_path_factory.mktemp("inspected")
    files = [
        write_json_lines(made / f"{name}.jsonl", make_sentences(100, seed=number), source=name)
        for number, name in enumerate(("books", "web"))
    ]
    return prepare_files_small(made / "shards", *files)


@pytest.fixture
def inspect(shards):
    """(*overrides) -> nothing, after scripts/inspect_data.py's task ran in this process."""
    import scripts.inspect_data as entry

    def run(*more: str) -> None:
        overrides = [f"corpus={shards.path}", "data.sequence_length=16", *more]
        entry.main.__wrapped__(compose(overrides, "inspect_data", InspectDataConfig))

    return run


def test_the_sequences_of_a_step_are_those_that_a_run_reads_there(inspect, shards, tmp_path, capsys):
    mixture = {"books": 0.25, "web": 0.75}
    inspect(
        "step=3", "seed=5", "tokens_per_step=128", f"data.mixture={json.dumps(mixture).replace(chr(34), '')}",
        f"output={tmp_path / 'page'}",
    )  # fmt: skip
    data = TokenDataModule(
        shards, sequence_length=16, micro_batch=8, seed=5, val_tokens=0, mixture=Mixture.of(mixture, None, 16)
    )
    batch = list(islice(data.train_dataloader(), 3))[2]
    page, printed = (tmp_path / "page" / "index.html").read_text(), capsys.readouterr().out
    for row in load_tokenizer(str(shards.tokenizer_dir)).batch_decode(batch.tolist()):
        assert " ".join(row.split()) in printed
        assert row.replace("<", "&lt;").replace(">", "&gt;") in page
    assert "http" not in page and 'src="data:image/png' in page


def test_a_file_and_a_token_say_where_a_sequence_lies(inspect, shards, capsys):
    inspect("position=7", "shown=1")
    found = next(line for line in capsys.readouterr().out.splitlines() if " token " in line).split()
    position, source, file, _, token = found
    shard = next(shard for shard in shards.shards if shard.file == file)
    tokens = shards.read(shard, int(token.replace(",", "")), int(token.replace(",", "")) + 17)
    batch = next(
        iter(TokenDataModule(shards, sequence_length=16, micro_batch=8, seed=0, val_tokens=0).train_dataloader())
    )
    assert (position, source) == ("7", shard.source)
    assert batch[7].tolist() == tokens.tolist()


def test_sources_are_counted_and_sampled(shards):
    books, web = source_statistics(shards, load_tokenizer(str(shards.tokenizer_dir)))
    assert (books.source, web.source) == shards.sources
    assert books.train_tokens == shards.tokens("train", "books") == books.lengths.sum()
    assert (books.one_token, books.odd_characters) == (0, 0)


def test_sequences_that_repeat_another_are_told(tmp_path):
    np.tile(np.arange(4), 10).astype("<u2").tofile(tmp_path / "0.npy")
    shard = Shard(file="0.npy", split="train", source="x", start=0, tokens=40, sha256="")
    windows = Windows([shard], files=ShardFiles(), root=tmp_path, dtype=np.dtype("<u2"), sequence_length=4)
    assert repeated_share(windows, run_order(windows, 0, None)) == 1 - 1 / 9


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("step=1", "position=2"), "one of the two"),
        (("step=0",), "step=0"),
        (("tokens_per_step=8",), "tokens_per_step=8"),
    ],
)
def test_what_makes_no_sense_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        compose(["corpus=x", "data.sequence_length=16", *given], "inspect_data", InspectDataConfig)
