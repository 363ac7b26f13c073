"""Growth between directories: stock, sharded, verified, complete or absent; and every way a source can be wrong."""

import errno
import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from grow.common.errors import CheckpointError, DataError, GrowthError
from grow.families import weights
from grow.families.build import load_config
from grow.families.source_directory import find_source
from grow.growth import run, tensor_writer
from grow.growth.run import grow, random_tokens
from grow.growth.settings import GrowthSettings, ScaleSettings
from grow.growth.target import scaled_target
from grow.growth.verify import verify
from tests.growth.cases import CONFIGS, PRESETS, make_source, preset, relative_difference, some_tokens


def _grow(source, output, growth=None, scale=None, **options):
    target = scaled_target(source.config, scale or ScaleSettings())
    return grow(str(source.directory), output, growth or PRESETS["hyperclone_noisy"], target, **options)


def _copy(source, tmp_path):
    directory = tmp_path / "source"
    shutil.copytree(source.directory, directory)
    return type(source)(source.config, directory, source.model)


@pytest.mark.parametrize("name", ["opt", "opt-350m", "pythia", "olmo-gqa-tied", "olmo2-mha", "llama-mqa-tied"])
def test_the_stock_class_reloads_the_grown_directory_and_gives_the_sources_logits(sources, name, tmp_path):
    source = sources(name)
    record = _grow(source, tmp_path / "grown")
    reloaded, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "grown", dtype=torch.float64, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert relative_difference(source.model, reloaded.eval()) < 1e-10
    assert record.verification.logit_scale == pytest.approx(1.0, abs=1e-6)


def test_growth_json_says_what_was_done_to_each_tensor(sources, tmp_path):
    _grow(sources("llama-mha"), tmp_path / "grown")
    written = json.loads((tmp_path / "grown" / "growth.json").read_text())
    assert written["preserved"] is True
    assert written["logit_scale"] == pytest.approx(1.0, abs=1e-6)
    assert {"max_abs_logit_diff", "kl", "loss_before", "loss_after", "plan_digest"} <= written.keys()
    down = written["tensors"]["model.layers.0.mlp.down_proj.weight"]
    assert (down["input_copies"], down["output_copies"], down["snr_db"]) == (2, 2, 10.0)


def test_a_growth_that_does_not_claim_to_preserve_is_kept_measured_and_said_to_change_the_function(sources, tmp_path):
    stacked = GrowthSettings(name="g_stack", depth="stack")
    deeper = ScaleSettings(embed=1, heads=1, ffn=1, layers=2)
    record = _grow(sources("llama-mha"), tmp_path / "grown", stacked, deeper)
    written = json.loads((tmp_path / "grown" / "growth.json").read_text())
    assert (written["preserves"], written["preserved"]) == (False, False)
    assert written["reasons"] == ["2 of 4 layers repeat another one (growth.depth=stack)"]
    assert written["layers"] == [0, 1, 0, 1]
    assert written["loss_after"] != pytest.approx(written["loss_before"], abs=1e-3)
    assert written["max_abs_logit_diff"] > 1e-3
    assert "growth=g_stack does not preserve the function: 2 of 4 layers" in record.notice
    assert record.described.endswith("grown by g_stack, which changes its function")
    exact = _grow(sources("llama-mha"), tmp_path / "exact")
    assert exact.notice is None
    assert exact.described == f"{sources('llama-mha').directory}, grown by test, its function kept"
    same = ScaleSettings(embed=1, heads=1, ffn=1)
    unchanged = _grow(sources("llama-mha"), tmp_path / "same", GrowthSettings(name="identity", share="none"), same)
    assert unchanged.described.endswith("unchanged (growth=identity)")
    assert json.loads((tmp_path / "exact" / "growth.json").read_text())["preserves"] is True


def test_sharded_and_single_files_hold_the_same_tensors_and_both_can_be_sources(sources, tmp_path):
    source = sources("llama-mha")
    _grow(source, tmp_path / "single")
    _grow(source, tmp_path / "sharded", max_shard_bytes=100_000)
    files = weights.weight_files(tmp_path / "sharded")
    assert len(files) > 1
    assert all(path.stat().st_size < 110_000 for path in files)
    joined = {name: tensor for path in files for name, tensor in load_file(path).items()}
    single = load_file(tmp_path / "single" / "model.safetensors")
    assert joined.keys() == single.keys()
    assert all(torch.equal(joined[name], single[name]) for name in single)
    sharded = type(source)(load_config(tmp_path / "sharded"), tmp_path / "sharded", source.model)
    assert _grow(sharded, tmp_path / "again").verification.preserved


def test_blocks_of_rows_do_not_change_what_is_written_without_noise(sources, tmp_path, monkeypatch):
    _grow(sources("pythia"), tmp_path / "whole", preset())
    monkeypatch.setattr(tensor_writer, "BLOCK_BYTES", 700)
    _grow(sources("pythia"), tmp_path / "blocks", preset())
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "blocks")]
    assert files[0] == files[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_keep_their_dtype(tmp_path, dtype):
    source = make_source(CONFIGS["llama-mha"], tmp_path / "source", dtype=dtype)
    _grow(source, tmp_path / "grown", preset())
    assert {tensor.dtype for tensor in load_file(tmp_path / "grown" / "model.safetensors").values()} == {dtype}


@pytest.mark.parametrize(("choice", "tolerance"), [("float32", 1e-4), ("source", 5e-2), ("bfloat16", 5e-2)])
def test_a_half_precision_source_grows_into_the_type_that_is_asked_for(tmp_path, choice, tolerance):
    source = make_source(CONFIGS["llama-mha"], tmp_path / "source", dtype=torch.bfloat16)
    record = _grow(source, tmp_path / "grown", replace(PRESETS["hyperclone_noisy"], dtype=choice))
    stored = {tensor.dtype for tensor in load_file(tmp_path / "grown" / "model.safetensors").values()}
    assert stored == {torch.float32 if choice == "float32" else torch.bfloat16}
    assert record.verification.tolerance == tolerance
    assert record.verification.preserved
    assert record.described.endswith(f"stored in {str(*stored).removeprefix('torch.')}")
    assert load_config(tmp_path / "grown").dtype == stored.pop()


def test_the_tolerance_is_that_of_the_coarsest_tensor(tmp_path):
    source = make_source(CONFIGS["llama-mha"], tmp_path / "source", dtype=torch.bfloat16)
    file = source.directory / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].float()
    save_file(tensors, file, metadata={"format": "pt"})
    record = _grow(source, tmp_path / "grown")
    assert record.verification.tolerance == 5e-2
    assert load_config(tmp_path / "grown").dtype == torch.float32  # holds both


def test_the_tokenizer_and_the_special_ids_travel_along(sources, tmp_path):
    source = _copy(sources("llama-mha"), tmp_path)
    (source.directory / "tokenizer.json").write_text("{}")
    (source.directory / "secret.txt").write_text("not ours to copy")
    _grow(source, tmp_path / "grown")
    assert (tmp_path / "grown" / "tokenizer.json").read_text() == "{}"
    assert not (tmp_path / "grown" / "secret.txt").exists()
    assert load_config(tmp_path / "grown").eos_token_id == source.config.eos_token_id


def test_lineage_says_what_the_source_cost_and_unknown_stays_unknown(sources, tmp_path):
    source = _copy(sources("llama-mha"), tmp_path)
    assert _grow(source, tmp_path / "unknown").lineage.tokens is None
    spent = {"source": "noise", "digest": "", "tokens": 1000, "flops": 5, "seconds": 2.0}
    (source.directory / "lineage.json").write_text(json.dumps(spent))
    lineage = _grow(source, tmp_path / "known").lineage
    assert (lineage.tokens, lineage.flops, lineage.seconds) == (1000, 5, 2.0)
    assert lineage.source == str(source.directory)


def test_checkpoints_without_the_stock_prefix_or_with_legacy_buffers_are_read(sources, tmp_path):
    source = _copy(sources("opt"), tmp_path)
    path = source.directory / "model.safetensors"
    tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}
    save_file({**tensors, "decoder.version": torch.zeros(1)}, path)
    assert _grow(source, tmp_path / "grown").verification.preserved


# Sources and outputs that are wrong


def _fails_cleanly(error, tmp_path, source, match):
    with pytest.raises(error, match=match):
        _grow(source, tmp_path / "grown")
    assert not (tmp_path / "grown").exists()
    assert not list(tmp_path.glob(".*partial"))


def test_a_growth_that_does_not_preserve_is_refused_and_nothing_is_kept(sources, tmp_path, monkeypatch):
    real = run.write_missing_files

    def damaged(files, blocks, directory, *more):
        real(files, blocks, directory, *more)
        path = directory / "model.safetensors"
        tensors = load_file(path)
        tensors["lm_head.weight"] *= 2  # argmax would not notice
        save_file(tensors, path, metadata={"format": "pt"})

    monkeypatch.setattr(run, "write_missing_files", damaged)
    _fails_cleanly(GrowthError, tmp_path, sources("llama-mha"), r"scale 2\.0000")


def test_a_truncated_file_is_named(sources, tmp_path):
    source = _copy(sources("llama-mha"), tmp_path)
    path = source.directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    _fails_cleanly(CheckpointError, tmp_path, source, "model.safetensors: damaged or truncated")


def test_a_missing_shard_is_named(sources, tmp_path):
    _grow(sources("llama-mha"), tmp_path / "sharded", max_shard_bytes=100_000)
    gone = weights.weight_files(tmp_path / "sharded")[1]
    gone.unlink()
    source = type(sources("llama-mha"))(load_config(tmp_path / "sharded"), tmp_path / "sharded", None)
    _fails_cleanly(CheckpointError, tmp_path, source, gone.name)


def test_a_missing_tensor_is_named(sources, tmp_path):
    source = _copy(sources("llama-mha"), tmp_path)
    path = source.directory / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path)
    _fails_cleanly(CheckpointError, tmp_path, source, r"model\.layers\.1\.mlp\.up_proj\.weight is missing")


def test_a_config_that_belongs_to_other_weights_is_refused(sources, tmp_path):
    source = _copy(sources("llama-mha"), tmp_path)
    config = json.loads((source.directory / "config.json").read_text())
    (source.directory / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    other = type(source)(load_config(source.directory), source.directory, None)
    _fails_cleanly(CheckpointError, tmp_path, other, "do not belong together")


@pytest.mark.parametrize("content", [None, "{", '{"no": "type"}'])
def test_a_directory_without_a_usable_config_is_refused(sources, tmp_path, content):
    source = _copy(sources("llama-mha"), tmp_path)
    path = source.directory / "config.json"
    path.unlink() if content is None else path.write_text(content)
    _fails_cleanly(CheckpointError, tmp_path, source, r"config\.json")


def test_pickled_weights_are_refused_with_a_way_to_convert_them(sources, tmp_path):
    source = _copy(sources("llama-mha"), tmp_path)
    (source.directory / "model.safetensors").rename(source.directory / "pytorch_model.bin")
    _fails_cleanly(CheckpointError, tmp_path, source, "save_pretrained")


def test_an_existing_output_is_never_overwritten(sources, tmp_path):
    (tmp_path / "grown").mkdir()
    (tmp_path / "grown" / "precious").touch()
    with pytest.raises(CheckpointError, match="already exists"):
        _grow(sources("llama-mha"), tmp_path / "grown")
    assert (tmp_path / "grown" / "precious").exists()


def test_a_disk_too_small_is_noticed_before_anything_is_written(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    _fails_cleanly(CheckpointError, tmp_path, sources("llama-mha"), "GB free")


def test_a_disk_that_fills_up_leaves_nothing_behind(sources, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run, "write_missing_files", full)
    _fails_cleanly(CheckpointError, tmp_path, sources("llama-mha"), "No space left")


def test_another_familys_target_is_refused(sources, tmp_path):
    with pytest.raises(GrowthError, match="opt model, the target a llama"):
        grow(str(sources("opt").directory), tmp_path / "grown", preset(), CONFIGS["llama-mha"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hidden_size": 48}, "embed: the target's 48 is not a multiple of the source's 32"),
        ({"num_hidden_layers": 4}, "layers: 2 in the source, 4 in the target"),
        ({"vocab_size": 64}, "vocab: 32 in the source, 64 in the target"),
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps: 1e-06 -> 0.001"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"num_attention_heads": 16, "num_key_value_heads": 12}, "multiple of the first"),
    ],
)
def test_a_target_that_does_not_fit_is_refused_by_name(sources, tmp_path, change, match):
    target = LlamaConfig.from_dict({**CONFIGS["llama-mha"].to_dict(), **change})
    with pytest.raises(GrowthError, match=match):
        grow(str(sources("llama-mha").directory), tmp_path / "grown", preset(), target)


def test_head_dim_cannot_grow_where_queries_are_clipped_or_frequencies_depend_on_it(tmp_path):
    scale = ScaleSettings(embed=2, heads=1, head_dim=2)
    clipped = type(CONFIGS["olmo-mha"]).from_dict({**CONFIGS["olmo-mha"].to_dict(), "clip_qkv": 8.0})
    with pytest.raises(GrowthError, match="clip_qkv"):
        _grow(make_source(clipped, tmp_path / "clipped"), tmp_path / "grown", scale=scale)
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 16}
    yarn = LlamaConfig.from_dict({**CONFIGS["llama-mha"].to_dict(), "rope_parameters": rope})
    with pytest.raises(GrowthError, match="yarn"):
        _grow(make_source(yarn, tmp_path / "yarn"), tmp_path / "grown", scale=scale)


def test_sizes_that_the_stock_class_refuses_are_one_clear_error(sources, tmp_path):
    with pytest.raises(GrowthError, match="not a multiple of the number of attention heads"):
        _grow(sources("llama-mha"), tmp_path / "grown", scale=ScaleSettings(embed=1, heads=3))
    with pytest.raises(GrowthError, match=r"embed by scale\.heads x scale\.head_dim"):
        _grow(sources("opt"), tmp_path / "grown", scale=ScaleSettings(embed=2, heads=1))


def test_the_identity_preset_refuses_a_bigger_target(sources, tmp_path):
    with pytest.raises(GrowthError, match="keeps every size"):
        _grow(sources("llama-mha"), tmp_path / "grown", GrowthSettings(name="identity", share="none"))


def test_an_unknown_source_is_one_clear_error(monkeypatch):
    with pytest.raises(CheckpointError, match="no such directory"):
        find_source("./nowhere/at/all")

    def unreachable(*args, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(CheckpointError, match="the hub did not give it"):
        find_source("nobody/nothing")


def test_a_run_directory_stands_for_its_final_model(sources, tmp_path):
    shutil.copytree(sources("llama-mha").directory, tmp_path / "run" / "model")
    (tmp_path / "run" / "run.json").write_text("{}")
    assert find_source(str(tmp_path / "run")) == tmp_path / "run" / "model"


def test_token_ids_beyond_the_vocabulary_are_refused_before_the_model_sees_them(sources):
    source = sources("llama-mha")
    with pytest.raises(DataError, match="vocabulary of 32"):
        verify(source.directory, source.directory, some_tokens() + 30, torch.float64)


def test_random_tokens_cover_the_models_vocabulary_and_are_always_the_same():
    first, second = (random_tokens(CONFIGS["opt"]) for _ in range(2))
    assert torch.equal(first, second)
    assert first.max() == CONFIGS["opt"].vocab_size - 1
    assert first.shape[1] <= CONFIGS["opt"].max_position_embeddings + 1
