"""Checkpoints of other formats: imported with the same weights, named in the lineage; what cannot be is refused."""

import json
import pickle

import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file
from transformers import AutoTokenizer

from grow.common.errors import GrowError
from grow.families import source_directory
from grow.families.build import load_config
from grow.families.checkpoint_import import import_checkpoint
from grow.families.source_directory import find_source
from grow.growth.run import grow
from grow.growth.settings import ScaleSettings
from grow.growth.target import scaled_target
from tests.growth.cases import CONFIGS, make_source, preset

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(autouse=True)
def imported_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(source_directory, "IMPORTED_DIR", tmp_path / "imported")


def pickled(directory, tensors, config, shards=1):
    """Write a checkpoint as versions of Transformers before safetensors did."""
    directory.mkdir()
    config.save_pretrained(directory)
    names, files = list(tensors), [f"pytorch_model-{i + 1:05}-of-{shards:05}.bin" for i in range(shards)]
    place = {name: files[number % shards] if shards > 1 else "pytorch_model.bin" for number, name in enumerate(names)}
    for file in set(place.values()):
        torch.save({name: tensors[name] for name in names if place[name] == file}, directory / file)
    if shards > 1:
        (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": place}))
    return directory


@pytest.mark.parametrize(("name", "shards"), [("opt", 1), ("pythia", 3), ("llama-gqa-tied", 2)])
def test_pickled_checkpoints_are_imported_with_their_old_names(tmp_path, name, shards):
    source = make_source(CONFIGS[name], tmp_path / "stock", dtype=torch.float16)
    stock = load_file(source.directory / "model.safetensors")
    old = {key.partition(".")[2] if key.startswith(("model.", "gpt_neox.")) else key: stock[key] for key in stock}
    old = {key.replace("norm.weight", "norm.gamma").replace("norm.bias", "norm.beta"): old[key] for key in old}
    old |= {"layers.0.attention.rotary_emb.inv_freq": torch.ones(2), "extra_head.weight": torch.ones(2)}
    directory = pickled(tmp_path / "old", old, source.config, shards)
    record = import_checkpoint(directory, tmp_path / "new")
    new = load_file(tmp_path / "new" / "model.safetensors")
    assert new.keys() == stock.keys()
    assert all(torch.equal(new[key], stock[key]) for key in stock)
    assert record.converted.startswith("PyTorch .bin, read as tensors alone; ")
    assert "2 left out (extra_head.weight, layers.0.attention.rotary_emb.inv_freq)" in record.converted


def test_growth_takes_a_pickled_checkpoint_and_its_lineage_says_so(tmp_path):
    stock = make_source(CONFIGS["llama-gqa"], tmp_path / "stock")
    directory = pickled(tmp_path / "old", load_file(stock.directory / "model.safetensors"), stock.config)
    record = grow(str(directory), tmp_path / "grown", preset(), scaled_target(stock.config, ScaleSettings()))
    assert record.verification.preserved
    lineage = json.loads((tmp_path / "grown" / "lineage.json").read_text())
    assert (lineage["source"], lineage["converted"]) == (str(directory), "PyTorch .bin, read as tensors alone")
    assert find_source(str(directory)) == find_source(str(directory))  # converted once


class _Opens:
    """An object whose unpickling would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def _object(tmp_path):
    directory = pickled(tmp_path / "object", {}, CONFIGS["llama-gqa"])
    torch.save({"weight": _Opens(tmp_path / "ran")}, directory / "pytorch_model.bin")
    return directory


def _old_pickle(tmp_path):
    directory = pickled(tmp_path / "pickle", {}, CONFIGS["llama-gqa"])
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(_Opens(tmp_path / "ran")))
    return directory


def _incomplete(tmp_path):
    return pickled(tmp_path / "incomplete", {"model.norm.weight": torch.ones(32)}, CONFIGS["llama-gqa"])


def _unknown_gguf(tmp_path):
    return gguf_of(tmp_path / "unknown.gguf", CONFIGS["llama-gqa"], {}, architecture="nonsense")


def _damaged_gguf(tmp_path):
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF" + bytes(range(40)))
    return tmp_path / "damaged.gguf"


def _adapter(tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/base"}))
    (tmp_path / "lora" / "adapter_model.safetensors").touch()
    return tmp_path / "lora"


def _configured(tmp_path, **content):
    source = make_source(CONFIGS["llama-gqa"], tmp_path / "configured")
    path = source.directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))
    return source.directory


def _quantized(tmp_path):
    return _configured(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})


def _multimodal(tmp_path):
    return _configured(tmp_path, model_type="llava", text_config={"model_type": "llama"}, vision_config={})


REFUSED = {
    _object: "holds objects",
    _old_pickle: "holds objects",
    _incomplete: "tensors are missing",
    _unknown_gguf: "architecture that Transformers does not read",
    _damaged_gguf: "cannot be read as GGUF",
    _adapter: "an adapter of somebody/base",
    _quantized: "the weights are quantized",
    _multimodal: "no axis table",
}


@pytest.mark.parametrize("made", REFUSED, ids=lambda made: made.__name__)
def test_what_cannot_be_a_source_is_refused_in_one_paragraph(tmp_path, made):
    source = made(tmp_path)
    with pytest.raises(GrowError, match=REFUSED[made]) as refused:
        target = scaled_target(load_config(find_source(str(source))), ScaleSettings())
        grow(str(source), tmp_path / "grown", preset(), target)
    assert refused.value.exit_code in (2, 77)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "grown").exists()
    assert not list((tmp_path / "imported").glob("[!.]*"))


def gguf_of(path, config, tensors, architecture="llama"):
    """Write a Llama and a tokenizer of its vocabulary as llama.cpp does."""
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<end>", *(chr(ord("a") + number) for number in range(config.vocab_size - 2)), "ab"])
    writer.add_token_types([3] + [1] * (config.vocab_size - 1))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_chat_template(TEMPLATE)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {"model.layers": "blk", "model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    names |= {"lm_head": "output"}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in tensors.items():
        for old, new in names.items():
            name = name.replace(old, new)
        for part, count in heads.items():  # llama.cpp rotates neighbours, so the halves of each head are interleaved
            if part in name:
                tensor = tensor.view(count, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_imported_with_its_tokenizer_and_chat_template(tmp_path):
    config = type(CONFIGS["llama-gqa"]).from_dict(
        {**CONFIGS["llama-gqa"].to_dict(), "attention_bias": False, "mlp_bias": False, "rms_norm_eps": 1e-5}
    )
    source = make_source(config, tmp_path / "stock", dtype=torch.float32)
    tensors = load_file(source.directory / "model.safetensors")
    file = gguf_of(tmp_path / "model.gguf", config, tensors)
    directory = find_source(str(file))
    new = load_file(directory / "model.safetensors")
    assert new.keys() == tensors.keys()
    assert all(torch.equal(new[name], tensors[name]) for name in tensors)
    written = json.loads((directory / "config.json").read_text())
    assert written["rms_norm_eps"] == 1e-5  # float32 made it 9.999999747e-06
    assert "quantization_config" not in written
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert (tokenizer.eos_token, tokenizer.chat_template) == ("<end>", TEMPLATE)
    assert json.loads((directory / "lineage.json").read_text())["converted"] == "GGUF ALL_F32, dequantized into float32"
