"""The chunked loss is cross-entropy: same value, same gradients, for every family's trunk and head."""

import pytest
import torch
from torch.nn import functional
from transformers import Gemma2Config, GPTNeoXConfig, LlamaConfig, Olmo2Config, OlmoConfig, OPTConfig

from grow.families.build import logit_cap, model_from_noise
from grow.training.step.objective import NextTokenLoss, capped, rows_per_chunk
from tests.growth import cases

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
CONFIGS = {
    "opt": OPTConfig(**SIZES, ffn_dim=24, dropout=0.0, word_embed_proj_dim=16),
    "opt_projected": OPTConfig(**SIZES, ffn_dim=24, dropout=0.0, word_embed_proj_dim=8, do_layer_norm_before=False),
    "gpt_neox": GPTNeoXConfig(**SIZES, intermediate_size=24),
    "olmo": OlmoConfig(**SIZES, intermediate_size=24),
    "olmo2": Olmo2Config(**SIZES, intermediate_size=24),
    "llama": LlamaConfig(**SIZES, intermediate_size=24),
    "llama_tied": LlamaConfig(**SIZES, intermediate_size=24, tie_word_embeddings=True),
    "gemma2": Gemma2Config(
        **SIZES, intermediate_size=24, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5
    ),
}
ALL = {**CONFIGS, **cases.CONFIGS}
"""These, and every layout that growth is tested on."""


def inputs(dtype, rows=37, width=8, vocab=50, scale=3.0):
    torch.manual_seed(0)
    hidden = (scale * torch.randn(rows, width, dtype=dtype)).requires_grad_()
    head = torch.randn(vocab, width, dtype=dtype, requires_grad=True)
    return hidden, head, torch.randint(vocab, (rows,))


def plain(hidden, head, targets):
    return functional.cross_entropy(functional.linear(hidden, head), targets)


@pytest.mark.parametrize("chunk_rows", [0, 1, 8, 37, 100])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_loss_and_gradients_equal_cross_entropy_for_any_chunk(chunk_rows, dtype, tolerance):
    hidden, head, targets = inputs(dtype)
    expected = plain(hidden, head, targets)
    expected_grads = torch.autograd.grad(expected, (hidden, head))
    loss = NextTokenLoss(chunk_rows=chunk_rows)(hidden, head, targets)
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=0)
    for found, wanted in zip(torch.autograd.grad(loss, (hidden, head)), expected_grads, strict=True):
        torch.testing.assert_close(found, wanted, rtol=10 * tolerance, atol=tolerance)


def test_gradient_passes_gradcheck():
    hidden, head, targets = inputs(torch.float64, rows=7, width=3, vocab=5, scale=1.0)
    assert torch.autograd.gradcheck(lambda h, w: 3 * NextTokenLoss(chunk_rows=3)(h, w, targets), (hidden, head))


def test_gradient_from_above_scales_both_gradients():
    hidden, head, targets = inputs(torch.float64)
    loss = NextTokenLoss(chunk_rows=8)(hidden, head, targets)
    expected = [0.25 * gradient for gradient in torch.autograd.grad(plain(hidden, head, targets), (hidden, head))]
    for found, wanted in zip(torch.autograd.grad(loss / 4, (hidden, head)), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_unit_gradient_gets_the_buffers_themselves_and_only_once():
    hidden, head, targets = inputs(torch.float64)
    loss = NextTokenLoss(chunk_rows=8)(hidden, head, targets)
    buffers = [gradient.data_ptr() for gradient in loss.grad_fn.gradients]
    loss.backward(retain_graph=True)
    assert head.grad.data_ptr() == buffers[1]
    with pytest.raises(RuntimeError, match="found a second"):
        loss.backward()


@pytest.mark.parametrize(
    ("rows", "vocabulary", "device", "expected"),
    [(1024, 8192, "cpu", 1024), (1024, 32000, "cpu", 256), (1000, 32000, "cpu", 250), (16384, 32000, "cuda", 16384)],
)
def test_chosen_chunks_are_even_and_fit_the_device(rows, vocabulary, device, expected):
    assert rows_per_chunk(rows, vocabulary, device) == expected


def test_huge_logits_give_a_finite_loss():
    hidden, head, targets = inputs(torch.float32, scale=1e3)
    loss = NextTokenLoss(chunk_rows=8)(hidden, head, targets)
    torch.testing.assert_close(loss, plain(hidden, head, targets))
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (hidden, head)))


def test_without_gradients_the_loss_is_the_same_and_needs_none():
    hidden, head, targets = inputs(torch.float64)
    with torch.no_grad():
        loss = NextTokenLoss(chunk_rows=8)(hidden, head, targets)
    torch.testing.assert_close(loss, plain(hidden, head, targets).detach())
    assert not loss.requires_grad


def test_autocast_computes_products_in_bfloat16_and_sums_in_float32():
    hidden, head, targets = inputs(torch.float32, rows=512, width=32, vocab=300, scale=0.3)
    expected = plain(hidden, head, targets)
    expected_grads = torch.autograd.grad(expected, (hidden, head))
    with torch.autocast("cpu", torch.bfloat16):
        loss = NextTokenLoss(chunk_rows=100)(hidden, head, targets)
    assert loss.dtype == torch.float32
    assert 0 < abs(loss - expected) < 2e-3  # not equal: bfloat16 was really used
    for found, wanted in zip(torch.autograd.grad(loss, (hidden, head)), expected_grads, strict=True):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 1e-2 * wanted.norm()


def test_full_float32_logits_never_exist(monkeypatch):
    rows, vocab, chunk_rows = 64, 50, 8
    hidden, head, targets = inputs(torch.float32, rows=rows, vocab=vocab)
    sizes = []
    softmax = torch.log_softmax
    monkeypatch.setattr(torch, "log_softmax", lambda x, *a, **k: (sizes.append(len(x)), softmax(x, *a, **k))[1])
    NextTokenLoss(chunk_rows=chunk_rows)(hidden, head, targets).backward()
    assert sizes == [chunk_rows] * (rows // chunk_rows)


@pytest.mark.parametrize("name", CONFIGS)
def test_trunk_and_head_give_the_stock_loss_and_gradients(name):
    model = model_from_noise(CONFIGS[name], seed=0).double()
    batch = torch.randint(40, (2, 17), generator=torch.Generator().manual_seed(1))
    model(input_ids=batch[:, :-1], labels=batch[:, :-1], shift_labels=batch[:, 1:].clone()).loss.backward()
    expected = {key: parameter.grad for key, parameter in model.named_parameters()}
    model.zero_grad()
    hidden = model.base_model(input_ids=batch[:, :-1], use_cache=False).last_hidden_state
    loss = NextTokenLoss(chunk_rows=9, cap=logit_cap(model.config))
    loss(hidden, model.get_output_embeddings().weight, batch[:, 1:]).backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-4, atol=1e-7, msg=key)


@pytest.mark.parametrize("chunk_rows", [0, 8])
def test_capped_logits_have_the_loss_and_gradients_of_the_capped_formula(chunk_rows):
    hidden, head, targets = inputs(torch.float64)
    expected = functional.cross_entropy(2.0 * torch.tanh(functional.linear(hidden, head) / 2.0), targets)
    loss = NextTokenLoss(chunk_rows=chunk_rows, cap=2.0)
    wanted = torch.autograd.grad(expected, (hidden, head))
    found = torch.autograd.grad(loss(hidden, head, targets), (hidden, head))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)
    with torch.no_grad():
        torch.testing.assert_close(loss(hidden, head, targets), expected.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_no_family_has_anything_between_hidden_states_and_logits_but_the_head_and_a_known_cap(name):
    model = model_from_noise(ALL[name], seed=0).eval()
    batch = torch.arange(16)[None]
    head = model.get_output_embeddings()
    assert head.bias is None
    logits = capped(head(model.base_model(input_ids=batch).last_hidden_state), logit_cap(model.config))
    torch.testing.assert_close(logits, model(batch).logits)
