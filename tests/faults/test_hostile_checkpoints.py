"""Checkpoints from a stranger: nothing in them is run or followed, and nothing outside of them is read or copied."""

import ast
import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from grow.averaging.offline import average_checkpoints
from grow.averaging.settings import AveragingSettings
from grow.common.errors import CheckpointError, DataError, GrowError
from grow.data.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from grow.families.build import load_config, load_model
from grow.families.source_directory import find_source
from grow.families.weights import INDEX_FILE, SINGLE_FILE, WeightReader
from grow.growth.run import grow
from grow.growth.settings import GrowthSettings, ScaleSettings
from grow.growth.target import scaled_target
from grow.growth.verify import logits_of
from tests.faults.conftest import CONFIG

ROOT = Path(__file__).parents[2]


def grown(source, tmp_path):
    target = scaled_target(load_config(source), ScaleSettings())
    return grow(str(source), tmp_path / "out" / "grown", GrowthSettings(name="g", share="symmetric"), target)


def averaged(source, tmp_path):
    how = AveragingSettings(name="lawa", kind="lawa", k=1)
    return average_checkpoints([str(source)], how, tmp_path / "out" / "average")


READERS = {
    "growth": grown,
    "average": averaged,
    "load": lambda source, tmp_path: load_model(source),
    "logits": lambda source, tmp_path: logits_of(source, torch.zeros(1, 3, dtype=torch.long), torch.float32),
}


def refused(reader, source, tmp_path, said):
    with pytest.raises(GrowError, match=said) as refusal:
        READERS[reader](source, tmp_path)
    assert refusal.value.exit_code == 77
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def configured(source, **keys):
    path = source / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


# --- code that comes with a checkpoint ---


@pytest.fixture
def evil(source, tmp_path, monkeypatch):
    """A source with code in it that leaves a file behind when it is run, and a terminal at which anyone says yes."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "y")
    trace = tmp_path / "run"
    code = f"open({str(trace)!r}, 'w').close()\nfrom transformers import *\nclass Evil(LlamaConfig): pass\n"
    (source / "evil.py").write_text(code + "class EvilModel(LlamaForCausalLM): pass\n")
    names = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.EvilModel", "AutoTokenizer": ["evil.Evil", None]}
    yield source, names
    assert not asked and not trace.exists()


@pytest.mark.parametrize("kind", ["evil", "llama2000", None, ["llama"], 7])
@pytest.mark.parametrize("reader", ["growth", "load", "logits"])
def test_a_kind_of_model_that_needs_code_is_refused_and_the_code_is_not_run(evil, tmp_path, reader, kind):
    source, names = evil
    configured(source, auto_map=names, model_type=kind)
    refused(reader, source, tmp_path, "expected a model_type that Transformers itself has")


@pytest.mark.parametrize("reader", READERS)
def test_a_known_kind_of_model_is_read_without_the_code_that_it_names(evil, tmp_path, reader):
    source, names = evil
    configured(source, auto_map=names)
    READERS[reader](source, tmp_path)


def test_a_grown_model_names_no_code(evil, tmp_path):
    source, names = evil
    configured(source, auto_map=names)
    (source / "tokenizer_config.json").write_text(json.dumps({"auto_map": names}))
    grown(source, tmp_path)
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((tmp_path / "out" / "grown" / name).read_text())


def test_a_tokenizer_that_needs_code_is_refused_and_the_code_is_not_run(evil):
    source, names = evil
    save_tokenizer(train_tokenizer(["some text"], 300), source)
    path = source / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": names, "tokenizer_class": "Evil"}))
    with pytest.raises(DataError):
        load_tokenizer(str(source))


KERNELS = ("_attn_implementation", "attn_implementation", "_attn_implementation_internal", "experts_implementation")


@pytest.mark.parametrize("key", [*KERNELS, "_experts_implementation"])
@pytest.mark.parametrize("reader", READERS)
def test_a_configuration_does_not_choose_the_code_that_computes(source, tmp_path, reader, key):
    expected = load_model(source).config._attn_implementation
    configured(source, **{key: "somebody/kernel"})
    READERS[reader](source, tmp_path)
    assert load_model(source).config._attn_implementation == expected == "sdpa"
    assert load_config(source)._attn_implementation is None and load_config(source)._experts_implementation is None


@pytest.mark.parametrize("reader", ["growth", "load", "logits"])
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_quantized_checkpoint_is_refused(source, tmp_path, reader, key):
    configured(source, **{key: {"quant_method": "gptq", "bits": 4}})
    refused(reader, source, tmp_path, "the weights are quantized")


def test_pickles_and_adapters_besides_the_weights_are_not_opened(source):
    (source / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/model"}))
    (source / ".metadata").write_bytes(b"a pickle of a distributed checkpoint")
    (source / "pytorch_model.bin").write_bytes(b"a pickle")
    load_model(source)


LOADERS = ("from_pretrained", "from_config")


def test_every_loader_in_the_tree_says_that_it_trusts_no_code():
    """An attribute that is only named, as in a message or a docstring, is no call."""
    calls = [
        (path.relative_to(ROOT), node.lineno, {keyword.arg: keyword.value for keyword in node.keywords})
        for folder in ("grow", "scripts", "benchmarks", "studies")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOADERS
    ]
    assert len(calls) >= 5
    trusting = [
        f"{path}:{line}"
        for path, line, keywords in calls
        if not isinstance(value := keywords.get("trust_remote_code"), ast.Constant) or value.value is not False
    ]
    assert not trusting


# --- files that lie elsewhere ---

FILES = ("config.json", SINGLE_FILE)


def linked(source, name, secret):
    """Replace a file of the source by a link to a file outside of it."""
    secret.parent.mkdir(parents=True, exist_ok=True)
    if (source / name).exists():
        (source / name).rename(secret)
    else:
        secret.write_text("a secret")
    (source / name).symlink_to(secret)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("reader", ["growth", "load", "logits"])
def test_links_that_leave_the_source_are_not_read(source, tmp_path, reader, name):
    linked(source, name, tmp_path / "elsewhere" / "secret")
    refused(reader, source, tmp_path, f"{name} leads to {tmp_path}/elsewhere/secret")


COPIED = ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "vocab.json", "special_tokens_map.json")


@pytest.mark.parametrize("name", [*COPIED, "merges.txt", "tokenizer.model", "added_tokens.json"])
@pytest.mark.parametrize("reader", ["growth", "average"])
def test_links_that_leave_the_source_are_not_copied(source, tmp_path, reader, name):
    linked(source, name, tmp_path / "elsewhere" / "secret")
    refused(reader, source, tmp_path, f"{name} leads to")


@pytest.mark.parametrize("name", ["generation_config.json", "config.json", SINGLE_FILE])
def test_an_average_copies_no_link_that_leaves_its_source(source, tmp_path, name):
    linked(source, name, tmp_path / "elsewhere" / "secret")
    refused("average", source, tmp_path, f"{name} leads to")


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "additional_chat_templates"])
def test_a_tokenizer_with_a_link_to_a_secret_is_refused(tmp_path, name):
    directory = tmp_path / "tokenizer"
    save_tokenizer(train_tokenizer(["some text"], 300), directory)
    linked(directory, name, tmp_path / "elsewhere" / "secret")
    with pytest.raises(DataError, match=f"{name} leads to"):
        load_tokenizer(str(directory))


def test_a_link_in_a_loop_is_refused(source, tmp_path):
    (source / "tokenizer.json").symlink_to("tokenizer.json")
    refused("growth", source, tmp_path, r"tokenizer\.json")


def test_a_link_within_the_source_and_a_link_to_the_source_are_fine(source, tmp_path):
    (source / SINGLE_FILE).rename(source / "weights")
    (source / SINGLE_FILE).symlink_to("weights")
    (tmp_path / "link").symlink_to(source)
    assert grown(tmp_path / "link", tmp_path).verification.preserved


def as_hub_snapshot(source, cache):
    """Lay a directory out as the hub's cache does: links to blobs."""
    repository = cache / "models--owner--name"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted(source.iterdir())):
        shutil.copy(file, repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    return snapshot


@pytest.mark.parametrize("reader", READERS)
def test_a_snapshot_in_the_hubs_cache_is_read_through_its_links(source, tmp_path, reader):
    READERS[reader](as_hub_snapshot(source, tmp_path / "cache"), tmp_path)


@pytest.mark.parametrize("to", ["another repository", "the cache", "a blob that is a link"])
def test_a_snapshot_whose_links_leave_its_repository_is_refused(source, tmp_path, to):
    snapshot = as_hub_snapshot(source, tmp_path / "cache")
    secret = tmp_path / "cache" / ("models--other--name/blobs/0" if to == "another repository" else "secret")
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text("a secret")
    if to == "a blob that is a link":
        blob = tmp_path / "cache" / "models--owner--name" / "blobs" / "evil"
        blob.symlink_to(secret)
        secret = blob
    (snapshot / "chat_template.jinja").symlink_to(secret)
    refused("growth", snapshot, tmp_path, r"chat_template\.jinja leads to")


# --- indices ---


def sharded(source, content):
    (source / SINGLE_FILE).rename(source / "model-00001-of-00001.safetensors")
    (source / INDEX_FILE).write_text(content if isinstance(content, str) else json.dumps(content))


OUTSIDE = ("../elsewhere.safetensors", "sub/../../elsewhere.safetensors", "{tmp}/models/elsewhere.safetensors")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_that_leaves_its_directory_is_refused_by_every_reader(source, tmp_path, reader, name):
    shutil.copy(source / SINGLE_FILE, source.parent / "elsewhere.safetensors")
    (source / "sub").mkdir()
    sharded(source, {"weight_map": {"model.norm.weight": name.format(tmp=tmp_path)}})
    refused(reader, source, tmp_path, "leads to")


def test_an_index_of_another_kind_of_model_that_leaves_its_directory_is_refused(source, tmp_path):
    shutil.copy(source / SINGLE_FILE, source.parent / "elsewhere.safetensors")
    (source / SINGLE_FILE).unlink()
    index = {"weight_map": {"a": "../elsewhere.safetensors"}}
    (source / "diffusion_model.safetensors.index.json").write_text(json.dumps(index))
    refused("average", source, tmp_path, "leads to")


INDICES = {
    "no weight_map": ({"metadata": {}}, "expected a weight_map"),
    "an empty weight_map": ({"weight_map": {}}, "expected a weight_map"),
    "a list for a weight_map": ({"weight_map": ["a"]}, "expected a weight_map"),
    "a number for a file": ({"weight_map": {"a": 1}}, "expected a weight_map"),
    "nothing for a file": ({"weight_map": {"a": None}}, "expected a weight_map"),
    "a table for a file": ({"weight_map": {"a": {"file": "b"}}}, "expected a weight_map"),
    "a list": ([], "expected a weight_map"),
    "a number": (3, "expected a weight_map"),
    "a missing file": ({"weight_map": {"a": "gone.safetensors"}}, "found no such file"),
    "the directory itself": ({"weight_map": {"a": "."}}, "found no such file"),
    "an empty name": ({"weight_map": {"a": ""}}, "found no such file"),
    "a NUL in a name": ({"weight_map": {"a": "x\0y"}}, "expected a file in it"),
    "a name too long": ({"weight_map": {"a": "x" * 5000}}, "expected a file in it|found no such file"),
    "a file of another format": ({"weight_map": {"a": "config.json"}}, "damaged or truncated"),
    "no JSON": ("{", "expected JSON"),
    "nothing": ("", "expected JSON"),
    "deep lists": ("[" * 100_000, "expected JSON"),
    "a number too long": ('{"weight_map": ' + "9" * 5000 + "}", "expected JSON"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("index", INDICES)
def test_a_damaged_index_is_a_sentence(source, tmp_path, reader, index):
    content, said = INDICES[index]
    sharded(source, content)
    refused(reader, source, tmp_path, said)


def test_an_index_may_name_files_in_a_folder_of_its_directory(source, tmp_path):
    names = list(load_file(source / SINGLE_FILE))
    (source / "shards").mkdir()
    (source / SINGLE_FILE).rename(source / "shards" / "one.safetensors")
    (source / INDEX_FILE).write_text(json.dumps({"weight_map": dict.fromkeys(names, "shards/one.safetensors")}))
    assert grown(source, tmp_path).verification.preserved


def test_a_tensor_in_two_files_is_refused(source, tmp_path):
    tensors = load_file(source / SINGLE_FILE)
    save_file({"model.norm.weight": tensors["model.norm.weight"] + 1}, source / "other.safetensors")
    sharded(source, {"weight_map": {"a": "model-00001-of-00001.safetensors", "b": "other.safetensors"}})
    refused("growth", source, tmp_path, r"tensor model\.norm\.weight is in .* and in other\.safetensors")


# --- configurations ---

CONFIGURATIONS = {
    "a list": [],
    "a number": 3,
    "nothing": None,
    "deep lists": "[" * 100_000,
    "no JSON": "{",
    "no kind": {"model_type": None},
    "a negative width": {"hidden_size": -8},
    "no width": {"hidden_size": 0},
    "a text as a width": {"hidden_size": "wide"},
    "a fraction as a width": {"hidden_size": 8.5},
    "no heads": {"num_attention_heads": 0},
    "heads that do not divide": {"num_attention_heads": 3, "head_dim": None},
    "a text as a vocabulary": {"vocab_size": "many"},
    "a negative vocabulary": {"vocab_size": -1},
    "negative layers": {"num_hidden_layers": -2},
    "an activation that is unknown": {"hidden_act": "evil"},
    "a dtype that is unknown": {"dtype": "system"},
    "rotations of another shape": {"rope_parameters": [1]},
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("reader", ["growth", "load", "logits"])
def test_a_damaged_configuration_is_a_sentence(source, tmp_path, reader, configuration):
    content = CONFIGURATIONS[configuration]
    if isinstance(content, dict):
        configured(source, **content)
    else:
        (source / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(GrowError):
        READERS[reader](source, tmp_path)


# --- headers ---


def packed(header, data=bytes(16), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(first, last, shape=(4,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


HEADERS = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "a length beyond the file": packed({}, length=10**6),
    "a length beyond memory": packed({}, length=2**63),
    "the largest length": packed({}, length=2**64 - 1),
    "no header": packed(b"", b""),
    "no JSON": packed(b"{", b""),
    "no UTF-8": packed(b'{"\xff":{}}', b""),
    "a list": packed([]),
    "a number": packed(3),
    "deep lists": packed(b"[" * 100_000),
    "a number too long": packed(b'{"a":' + b"9" * 5000 + b"}"),
    "data cut": packed({"w": entry(0, 16)}, bytes(15)),
    "data added": packed({"w": entry(0, 16)}, bytes(17)),
    "data that no tensor has": packed({}, bytes(16)),
    "an overlap": packed({"a": entry(0, 16), "b": entry(8, 24)}, bytes(24)),
    "the same place twice": packed({"a": entry(0, 16), "b": entry(0, 16)}, bytes(16)),
    "a gap": packed({"a": entry(0, 16), "b": entry(20, 36)}, bytes(36)),
    "a gap before": packed({"a": entry(4, 20)}, bytes(20)),
    "an end before the start": packed({"a": entry(16, 0)}, bytes(16)),
    "a negative offset": packed({"a": entry(-16, 0)}, bytes(16)),
    "more than its shape": packed({"a": entry(0, 16, (3,))}),
    "less than its shape": packed({"a": entry(0, 16, (5,))}),
    "a negative size": packed({"a": entry(0, 16, (-4,))}),
    "two negative sizes": packed({"a": entry(0, 16, (-2, -2))}),
    "sizes that overflow": packed({"a": entry(0, 16, (2**32, 2**32))}),
    "sizes that overflow at zero": packed({"a": entry(0, 0, (0, 2**62, 2**62))}, b""),
    "a size beyond 64 bits": packed({"a": entry(0, 16, (2**64,))}),
    "a thousand dims": packed({"a": entry(0, 16, (1,) * 1000 + (4,))}),
    "a fraction as a size": packed({"a": entry(0, 16, (4.0,))}),
    "a truth as a size": packed({"a": entry(0, 4, (True,))}, bytes(4)),
    "a text as a size": packed({"a": entry(0, 16, ("4",))}),
    "a fraction as an offset": packed({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16.0]}}),
    "one offset": packed({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0]}}),
    "three offsets": packed({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8, 16]}}),
    "no offsets": packed({"a": {"dtype": "F32", "shape": [4]}}),
    "no shape": packed({"a": {"dtype": "F32", "data_offsets": [0, 16]}}),
    "no dtype": packed({"a": {"shape": [4], "data_offsets": [0, 16]}}),
    "a number as a dtype": packed({"a": {"dtype": 4, "shape": [4], "data_offsets": [0, 16]}}),
    "a list as an entry": packed({"a": [0, 16]}),
    "nothing as an entry": packed({"a": None}),
    "a name twice": packed(
        b'{"a":' + json.dumps(entry(0, 16)).encode() + b',"a":' + json.dumps(entry(0, 16)).encode() + b"}"
    ),
    "metadata of numbers": packed({"__metadata__": {"format": 1}, "a": entry(0, 16)}),
    "metadata that is a list": packed({"__metadata__": [], "a": entry(0, 16)}),
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_lying_header_is_a_sentence(source, tmp_path, header):
    (source / SINGLE_FILE).write_bytes(HEADERS[header])
    for reader in READERS:
        refused(reader, source, tmp_path, f"{SINGLE_FILE}: damaged or truncated")


UNREADABLE = {"F8_E4M3": 4, "F8_E5M2": 4, "F8_E8M0": 4, "F4": 2, "U16": 8, "U32": 16, "C64": 32, "BANANA": 3, "": 0}


@pytest.mark.parametrize("dtype", UNREADABLE)
@pytest.mark.parametrize("reader", READERS)
def test_a_dtype_that_cannot_be_read_is_a_sentence(source, tmp_path, reader, dtype):
    tensors = load_file(source / SINGLE_FILE)
    kept = {name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}
    save_file(kept, source / SINGLE_FILE)
    content = (source / SINGLE_FILE).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    more = UNREADABLE[dtype]
    header["model.norm.weight"] = entry(len(data), len(data) + more, (4,), dtype)
    (source / SINGLE_FILE).write_bytes(packed(header, data + bytes(more)))
    refused(reader, source, tmp_path, rf"tensor model\.norm\.weight has dtype {dtype}, which Grow cannot read")


def test_tensors_without_elements_are_read(tmp_path):
    tensors = {"none": torch.empty(0), "rows": torch.empty(0, 4), "one": torch.ones(()), "w": torch.arange(3.0)}
    save_file(tensors, tmp_path / SINGLE_FILE)
    reader = WeightReader(tmp_path)
    assert all(torch.equal(reader.read(name), tensor) for name, tensor in tensors.items())
    assert len(reader.read_flat("none", slice(0, 0))) == 0


def test_a_source_that_is_a_file_or_a_missing_directory_is_a_sentence(source, tmp_path):
    for name in (str(source / "config.json"), str(tmp_path / "gone"), "./gone"):
        with pytest.raises(CheckpointError):
            find_source(name)
    assert CONFIG.model_type == load_config(source).model_type
