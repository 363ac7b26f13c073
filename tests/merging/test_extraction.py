"""A delta as a LoRA: its error is that of the truncated decomposition, and peft computes the tuned model with it."""

import json

import pytest
import torch

from grow.common.errors import CheckpointError
from grow.families.build import load_model
from grow.merging.lora_extraction import extract_lora, truncated


def test_the_error_is_the_norm_of_the_dropped_singular_values():
    delta = torch.randn(12, 7, dtype=torch.float64)
    for rank in (1, 4, 7, 9):
        a, b, error = truncated(delta, rank)
        assert a.shape == (rank, 7) and b.shape == (12, rank)
        assert float((delta - b @ a).norm()) == pytest.approx(error, abs=1e-12)
        assert error == pytest.approx(float(torch.linalg.svdvals(delta)[rank:].square().sum().sqrt()), abs=1e-12)


@pytest.mark.slow
def test_what_a_lora_holds_and_what_it_does_not(tmp_path, directories):
    base, tuned = directories
    found = extract_lora(str(base), str(tuned), 2, tmp_path / "lora")
    assert all(each.error < 1e-5 * each.delta for each in found.matrices)
    assert any("norm" in name for name in found.others) and any("embed" in name for name in found.others)
    assert all(size > 0 for size in found.others.values())
    smaller = extract_lora(str(base), str(tuned), 1, tmp_path / "rank1")
    assert all(0 < each.error < each.delta for each in smaller.matrices)
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"] == 2


@pytest.mark.slow
def test_peft_computes_the_tuned_model_with_it(tmp_path, directories):
    peft = pytest.importorskip("peft")
    base, tuned = directories
    extract_lora(str(base), str(tuned), 2, tmp_path / "lora")
    expected, plugged = load_model(tuned), load_model(base)
    held = {n for n, m in plugged.named_modules() if isinstance(m, torch.nn.Linear)}
    with torch.no_grad():
        for name, parameter in plugged.named_parameters():
            if name.removesuffix(".weight") not in held:
                parameter.copy_(expected.get_parameter(name))
    ids = torch.arange(20)[None]
    before = plugged(ids).logits
    after = peft.PeftModel.from_pretrained(plugged, tmp_path / "lora")(ids).logits
    want = expected(ids).logits
    assert float((before - want).detach().abs().max()) > 1e-2
    assert float((after - want).detach().abs().max()) < 1e-4


@pytest.mark.slow
def test_nothing_to_extract_is_refused_and_leaves_nothing(tmp_path, directories):
    with pytest.raises(CheckpointError, match="nothing to extract"):
        extract_lora(str(directories[0]), str(directories[0]), 2, tmp_path / "lora")
    assert list(tmp_path.iterdir()) == []
