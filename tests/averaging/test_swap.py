"""Inside the block the model is its average; after it, it is what it was, to the bit, whatever happened."""

import copy

import pytest
import torch
from torch import nn

from grow.averaging.average import new_average
from grow.averaging.swap import averaged, is_averaged
from tests.averaging.conftest import make_plan


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 11, bias=False))
    model[3].weight = model[0].weight  # tied
    return model


def weights_of(model):
    return dict(model.named_parameters())


def mean_of(model):
    average = new_average(make_plan(k=3))
    other = copy.deepcopy(model)
    for step in (1, 2, 3):
        for parameter in other.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        average.push(step, weights_of(other))
    return average.mean()


def snapshot(model):
    return {name: (tensor.clone(), tensor.data_ptr()) for name, tensor in model.state_dict().items()}


def assert_untouched(model, before):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name][0]) and tensor.data_ptr() == before[name][1]
    assert model[3].weight is model[0].weight


def test_inside_the_model_computes_what_a_fresh_one_with_the_average_does(model):
    mean, tokens = mean_of(model), torch.arange(11)
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            parameter.copy_(mean[name])
    before, live_output = snapshot(model), model(tokens)
    with averaged(weights_of(model), mean):
        assert torch.equal(model(tokens), fresh(tokens))
        assert not torch.equal(model(tokens), live_output)
    assert_untouched(model, before)
    assert torch.equal(model(tokens), live_output)


def test_an_exception_inside_restores_too(model):
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt), averaged(weights_of(model), mean_of(model)):
        raise KeyboardInterrupt
    assert_untouched(model, before)
    assert not is_averaged(model.parameters())


def test_an_average_that_does_not_fit_restores_what_it_had_already_filled(model):
    before, mean = snapshot(model), mean_of(model)
    mean["2.bias"] = torch.zeros(9)
    with pytest.raises(RuntimeError), averaged(weights_of(model), mean):
        pytest.fail("an average of another shape went in")
    assert_untouched(model, before)


def test_an_average_of_other_names_is_refused_before_anything_is_touched(model):
    before, mean = snapshot(model), mean_of(model)
    del mean["2.bias"]
    with pytest.raises(ValueError, match=r"2\.bias"), averaged(weights_of(model), mean):
        pytest.fail("an average without one of the weights went in")
    assert_untouched(model, before)


def test_a_swap_inside_a_swap_is_refused_and_the_outer_one_still_restores(model):
    before, mean = snapshot(model), mean_of(model)
    with averaged(weights_of(model), mean):
        with pytest.raises(ValueError, match="averaged values already"), averaged(weights_of(model), mean):
            pytest.fail("the same weights were swapped twice")
        assert is_averaged(model.parameters())
    assert_untouched(model, before)
    with averaged(weights_of(model), mean):  # and it can be done again
        pass


def test_whoever_saves_can_ask_whether_the_weights_are_averaged_by_any_view_of_them(model):
    assert not is_averaged(model.parameters())
    with averaged(weights_of(model), mean_of(model)):
        assert is_averaged([model[1].weight.view(-1)])
        assert not is_averaged([torch.zeros(3)])
    assert not is_averaged(model.parameters())


def test_bfloat16_weights_hold_the_rounded_average_and_get_their_bits_back(model):
    mean, model = mean_of(model), model.bfloat16()
    before = snapshot(model)
    with averaged(weights_of(model), mean):
        assert all(torch.equal(tensor, mean[name].bfloat16()) for name, tensor in model.named_parameters())
    assert_untouched(model, before)


def test_views_into_one_flat_buffer_stay_views():
    flat = torch.randn(10)
    live = {"a": flat[:4], "b": flat[4:]}
    before = flat.clone()
    with averaged(live, {"a": torch.ones(4), "b": torch.zeros(6)}):
        assert flat.tolist() == [1] * 4 + [0] * 6
    assert torch.equal(flat, before)


def test_mode_gradients_and_random_state_are_left_alone(model):
    model(torch.arange(11)).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    random = torch.get_rng_state()
    mean = mean_of(model)
    torch.set_rng_state(random)
    with averaged(weights_of(model), mean):
        assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


def test_training_goes_on_bit_for_bit_and_the_test_sees_a_swap_that_does_not_restore(model):
    def train(model, peek):
        torch.manual_seed(1)
        average = new_average(make_plan(k=2))
        for step in range(1, 9):
            model(torch.randint(11, (5,))).square().mean().backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
            model.zero_grad()
            average.push(step, weights_of(model))
            if average.ready:
                peek(model, average)
        return model.state_dict()

    def properly(model, average):
        with averaged(weights_of(model), average.mean()):
            model(torch.arange(11))

    def for_good(model, average):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(average.mean()[name])

    quiet = train(copy.deepcopy(model), lambda *_: None)
    peeked, damaged = train(copy.deepcopy(model), properly), train(copy.deepcopy(model), for_good)
    assert all(torch.equal(quiet[name], peeked[name]) for name in quiet)
    assert not all(torch.equal(quiet[name], damaged[name]) for name in quiet)


@pytest.mark.slow
def test_a_compiled_model_sees_the_average(model):
    mean, tokens = mean_of(model), torch.arange(11)
    compiled = torch.compile(model)
    with torch.no_grad():
        live = compiled(tokens)
        with averaged(weights_of(model), mean):
            inside, expected = compiled(tokens), model(tokens)
        assert torch.allclose(inside, expected, atol=1e-5) and not torch.allclose(inside, live, atol=1e-3)
        assert torch.equal(compiled(tokens), live)
