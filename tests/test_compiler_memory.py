"""Memory used again, weights packed again only when they changed, and how many threads a row is worth."""

import gc
import os

import pytest
import torch

import recur
from recur.cells import LSTM
from recur.compiler import kernel, memory
from recur.compiler.choice import PROBE_LAST, Choice
from recur.compiler.rows import uniform
from recur.compiler.target import host
from recur.compiler.trace import trace
from recur.compiler.weights import Weights

LARGE = (1000, 1000)


def test_a_block_is_used_again_only_when_nothing_looks_at_it():
    first = memory.empty(torch.float32, *LARGE).fill_(1)
    address, view = first.data_ptr(), first[3:]
    del first
    gc.collect()
    second = memory.empty(torch.float32, *LARGE).fill_(2)
    assert second.data_ptr() != address
    assert (view == 1).all()
    del view
    gc.collect()
    third = memory.empty(torch.float32, *LARGE)
    assert third.data_ptr() == address
    assert third.shape == LARGE
    assert third.dtype == torch.float32


def test_a_block_that_autograd_keeps_is_not_given_away():
    x = memory.empty(torch.float64, *LARGE).fill_(3).requires_grad_()
    address = x.data_ptr()
    y = (x * x).sum()
    del x
    gc.collect()
    assert memory.empty(torch.float64, *LARGE).data_ptr() != address
    y.backward()


def test_small_tensors_and_empty_ones_are_torchs_own():
    assert memory.empty(torch.float32, 3, 5).shape == (3, 5)
    assert memory.empty(torch.float32, 0, 5).shape == (0, 5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_forked_child_writes_stays_with_it():
    kept = memory.empty(torch.float32, *LARGE)
    kept.numpy()[:] = 1
    child = os.fork()
    if not child:
        kept.numpy()[:] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert (kept.numpy() == 1).all()


def layer_and_input():
    torch.manual_seed(0)
    return recur.LSTM(5, 40, batch_first=True).eval(), torch.randn(3, 4, 5)


def fresh(layer, x):
    """What a new layer with the same weights gives."""
    other = recur.LSTM(5, 40, batch_first=True)
    other.load_state_dict({name: value.clone() for name, value in layer.state_dict().items()})
    return other(x)[0]


@pytest.mark.parametrize("change", ["no_grad", "data", "data_replaced", "optimiser", "load_state_dict", "one_number"])
def test_changed_weights_are_packed_again(change):
    layer, x = layer_and_input()
    with torch.no_grad():
        before = layer(x)[0]
        assert torch.equal(before, layer(x)[0])
        if change == "no_grad":
            layer.weight_hh_l0.mul_(0.5)
        elif change == "data":
            layer.weight_hh_l0.data.mul_(0.5)
        elif change == "data_replaced":
            layer.weight_ih_l0.data = torch.randn(160, 5)
        elif change == "load_state_dict":
            layer.load_state_dict(recur.LSTM(5, 40).state_dict())
        elif change == "one_number":
            layer.bias_hh_l0[7] += 1
    if change == "optimiser":
        layer(x)[0].sum().backward()
        torch.optim.SGD(layer.parameters(), 0.1).step()
    with torch.no_grad():
        after = layer(x)[0]
        assert not torch.equal(before, after)
        assert torch.equal(after, fresh(layer, x))


def test_inference_tensors_and_expanded_weights_run():
    layer, x = layer_and_input()
    with torch.inference_mode():
        frozen = recur.LSTM(5, 40, batch_first=True)
        frozen.load_state_dict(layer.state_dict())
        assert torch.equal(frozen(x)[0], layer(x)[0])
        frozen.weight_hh_l0.mul_(0.5)
        assert not torch.equal(frozen(x)[0], layer(x)[0])


def test_bfloat16_weights_round_and_nothing_else():
    torch.manual_seed(0)
    size, steps, batch = 70, 6, 3
    weights = [torch.randn(4 * size, 9), torch.randn(4 * size, size), torch.randn(4 * size), torch.randn(4 * size)]
    weights = [value / size**0.5 for value in weights]
    x, state = torch.randn(steps, batch, 9), [torch.randn(batch, size), torch.randn(batch, size)]
    text, rows = trace(LSTM()).text, uniform(steps, batch)

    def run(half, dtype=torch.float32):
        given = Weights(*(value.to(dtype) for value in weights), None, None)
        states = [value.to(dtype) for value in state]
        return kernel.forward(text, x.to(dtype), given, states, rows, training=False, half=half).y

    whole, half = run(False), run(True)
    assert torch.equal(half, run(True))
    if host().has_bf16:
        assert 1e-6 < (half - whole).abs().max() < 2e-2
    else:
        assert torch.equal(half, whole)
    assert torch.equal(run(True, torch.float64), run(False, torch.float64))


def test_a_layer_with_bfloat16_weights_trains_in_float32():
    torch.manual_seed(0)
    layer, x = recur.GRU(9, 70, 2, backend="cpu-bfloat16", bidirectional=True), torch.randn(6, 3, 9)
    with torch.no_grad():
        half = layer(x, lengths=[6, 0, 3])[0]
    trained = layer(x, lengths=[6, 0, 3])[0]
    assert trained.requires_grad
    layer.backend = "cpu"
    assert torch.equal(trained, layer(x, lengths=[6, 0, 3])[0])
    assert (half - trained).abs().max() < 2e-2
    assert torch.equal(half, trained) != host().has_bf16


def test_the_faster_way_is_taken_and_the_other_looked_at_now_and_then():
    choice, alone, shared = Choice(4), 1.0, 0.4
    taken = []

    def call():
        nt = choice.next()
        taken.append(nt)
        choice.took(nt, shared if nt == 4 else alone)

    for _ in range(300):
        call()
    assert taken[0] == 4
    assert 1 in taken
    assert taken[100:].count(4) > 190
    shared = 5.0  # another process has taken a core
    taken.clear()
    for _ in range(2 * PROBE_LAST):
        call()
    assert taken[-20:].count(1) >= 17


def test_scratch_that_is_not_kept_lives_as_long_as_the_kernel_runs():
    size, rows = 64, 1 + kernel.KEPT_BYTES // (3 * 64 * 4)
    layer, x, h = recur.GRU(size, size), torch.randn(1, rows, size), torch.randn(1, rows, size)
    with torch.no_grad():
        whole, parts = (
            layer(x, h)[0],
            [layer(x[:, part], h[:, part])[0] for part in (slice(0, 9000), slice(9000, None))],
        )
    assert torch.allclose(whole, torch.cat(parts, dim=1), atol=1e-6)
