"""Exact BPTT with chosen memory: the numbers of a plain run, the schedule's optimum, and the memory that was stated."""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import recur
from recur import InputError, Recurrent, State, checkpoint_plan
from recur.cells import LSTM, Zoneout
from recur.layers.bits import drawn, drawn_for_dropout
from recur.layers.schedule import advances, kept_at, reversal

CHECKPOINTS = ["sqrt", 2, 1, 28, "60KB"]


def run(layer: torch.nn.Module, x: Tensor, state: State | None = None, **options: object) -> tuple[list[Tensor], ...]:
    """Return outputs and final states, and the gradients of input, weights and initial state."""
    torch.manual_seed(7)
    x = x.clone().requires_grad_()
    state = None if state is None else state.map(lambda value: value.clone().requires_grad_())
    output, final = layer(x, state, **options)
    results = [output, *(final if isinstance(final, State | tuple) else [final])]
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.rand(value.shape, generator=generator, dtype=value.dtype) - 0.5 for value in results]
    leaves = [x, *layer.parameters(), *(state or [])]
    return [value.detach() for value in results], list(torch.autograd.grad(results, leaves, cotangents))


def same(plain: tuple[list[Tensor], ...], ours: tuple[list[Tensor], ...], *, exact: bool = True) -> bool:
    forward = all(torch.equal(a, b) if exact else torch.allclose(a, b) for a, b in zip(plain[0], ours[0], strict=True))
    return forward and all(torch.allclose(a, b, atol=1e-10) for a, b in zip(plain[1], ours[1], strict=True))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("cell", ["lstm", Zoneout(LSTM, h=0.2, c=0.4), "gru", "mingru"], ids=str)
def test_numbers_are_those_of_a_plain_run(cell, backend, bidirectional):
    dropped = 0.0 if cell == "mingru" else 0.2
    options = {
        "residual": cell == "gru",
        "dropout": 0.3,
        "recurrent_dropout": dropped,
        "backend": backend,
        "bidirectional": bidirectional,
    }
    layer = Recurrent(cell, 5, 6, 2, **options).double()
    x = torch.randn(29, 4, 5, dtype=torch.float64)
    shape = (4 if bidirectional else 2, 4, 6)
    state = State(**{name: torch.rand(shape, dtype=torch.float64) for name in layer.cell.state_names})
    resets = torch.rand(29, 4) < 0.15
    ragged = {"lengths": [29, 0, 13, 1], "resets": resets}
    for given in ({}, {"resets": resets}, ragged, {"padding": "left", **ragged}):
        layer.checkpoint = None
        plain = run(layer, x, state, **given)
        for layer.checkpoint in CHECKPOINTS if backend == "auto" else CHECKPOINTS[:2]:
            assert same(plain, run(layer, x, state, **given)), (layer.checkpoint, given)


@pytest.mark.parametrize("kind", [recur.RNN, recur.LSTM, recur.GRU])
def test_layers_that_stand_in_for_torch_nn_take_it(kind):
    plain = kind(3, 4, 3, batch_first=True, dropout=0.5)
    ours = kind(3, 4, 3, batch_first=True, dropout=0.5, checkpoint=3)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 50, 3)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(run(plain, x)[1], run(ours, x)[1], strict=True))
    theirs = getattr(torch.nn, kind.__name__)(3, 4, 3, batch_first=True, dropout=0.5)
    theirs.load_state_dict(plain.state_dict())
    # dropout draws what torch.nn draws
    assert torch.allclose(run(theirs, x)[0][0], run(ours, x)[0][0], atol=1e-6)


def test_backend_parallel_takes_it():
    layer = Recurrent("mingru", 3, 4, backend="parallel").double()
    x = torch.randn(20, 2, 3, dtype=torch.float64)
    plain = run(layer, x)
    layer.checkpoint = "sqrt"
    assert same(plain, run(layer, x), exact=False)


def test_masks_as_bits_are_those_that_torch_draws():
    for shape in ((3, 2, 5), (300, 7, 33)):
        x = torch.ones(shape)
        torch.manual_seed(3)
        expected = torch.nn.functional.dropout(x, 0.3) != 0, torch.empty(shape).bernoulli_(0.8)
        torch.manual_seed(3)
        found = drawn_for_dropout(0.3, x, shape), drawn(0.8, x, shape)
        for bits, mask in zip(found, expected, strict=True):
            assert torch.equal(bits.part(1, 3, torch.float32), mask[1:3].float())
            assert bits.packed.nbytes == shape[0] * shape[1] * -(-shape[2] // 8)


def test_a_graph_may_be_used_twice_and_a_layer_too():
    layer = recur.LSTM(3, 4, checkpoint="sqrt").double()
    x = torch.randn(30, 2, 3, dtype=torch.float64, requires_grad=True)
    both = (layer(x)[0] * layer(x.flip(0))[0]).sum()
    first = torch.autograd.grad(both, x, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(both, x)[0], first)
    layer.checkpoint = None
    assert torch.allclose(torch.autograd.grad((layer(x)[0] * layer(x.flip(0))[0]).sum(), x)[0], first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(both, x)


def test_gradients_of_gradients_are_exact():
    layer = Recurrent("gru", 2, 3, checkpoint=2).double()
    x = torch.randn(6, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tuple(layer(x).state), x)
    assert torch.autograd.gradgradcheck(lambda x: layer(x).output, x)
    assert torch.autograd.gradcheck(lambda x: layer(x).output, x, check_batched_grad=True)


def test_without_gradient_and_under_transforms_it_is_a_plain_run():
    layer = Recurrent("lstm", 2, 3, dropout=0.5, checkpoint="sqrt")
    x = torch.randn(9, 2, 2)
    with torch.no_grad():
        assert not layer(x).output.requires_grad
    loss = lambda x: layer(x).output.sum()  # noqa: E731
    assert torch.allclose(torch.func.grad(loss)(x), torch.autograd.grad(loss(y := x.clone().requires_grad_()), y)[0])


def test_frozen_weights_get_no_gradient():
    layer = Recurrent("lstm", 2, 3, checkpoint="sqrt")
    layer.weight_hh_l0.requires_grad_(False)
    layer(torch.randn(9, 2, 2)).output.sum().backward()
    assert layer.weight_hh_l0.grad is None
    assert layer.weight_ih_l0.grad is not None


def test_autocast_is_that_of_the_forward():
    layer = Recurrent("lstm", 2, 3, backend="reference")
    x = torch.randn(9, 2, 2)
    found = []
    for layer.checkpoint in (None, "sqrt"):
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(x).output
        found.append(torch.autograd.grad(output.sum(), layer.weight_ih_l0)[0])
    assert torch.allclose(*found, atol=1e-2)
    assert not torch.allclose(found[0], torch.autograd.grad(layer(x).output.sum(), layer.weight_ih_l0)[0], atol=1e-6)


def test_a_step_that_draws_by_itself_is_refused():
    class Noisy(recur.Cell):
        gates = "a"

        def step(x, U, s):
            return State(h=torch.nn.functional.dropout(x.a + U.a(s.h), 0.5))

    layer = Recurrent(Noisy, 2, 3, backend="reference", checkpoint="sqrt")
    with pytest.raises(InputError, match=r"draws other random numbers .* let it ask for `masks`"):
        layer(torch.randn(9, 2, 2))


@cache
def optimum(segments: int, places: int) -> int:
    """The fewest advances, by dynamic programming over where the next state is kept."""
    if segments == 1:
        return 0
    if places == 1:
        return segments * (segments - 1) // 2
    return min(n + optimum(segments - n, places - 1) + optimum(n, places) for n in range(1, segments))


def test_the_schedule_is_the_optimum_and_holds_no_more_than_it_may():
    for segments in range(1, 40):
        for places in range(1, 9):
            assert advances(segments, places) == optimum(segments, places)
            held, turned = {0, *kept_at(segments, places)}, []
            run = max(held)
            for kind, start, stop in reversal(segments, places):
                assert start in held
                run += stop - start
                if kind == "keep":
                    held.add(stop)
                elif kind == "turn":
                    turned.append(stop)
                else:
                    held.remove(start)
                assert len(held) <= places
            assert turned == list(reversed(range(segments)))
            assert run == optimum(segments, places)


def test_the_plan_counts_the_steps_that_are_run(monkeypatch: pytest.MonkeyPatch):
    from recur.layers import segments

    layer = Recurrent("rnn", 2, 3)
    x = torch.randn(100, 2, 2)
    scan, steps = segments.scan, []
    monkeypatch.setattr(
        segments, "scan", lambda cell, input, *a, **k: steps.append(len(input)) or scan(cell, input, *a, **k)
    )
    for layer.checkpoint in ("sqrt", 40, 3, 1):
        plan = checkpoint_plan(layer, 100, 2)
        steps.clear()
        layer(x).output.sum().backward()
        assert sum(steps) == pytest.approx(100 * (1 + plan.extra_forward))
        assert max(steps) == plan.segment_length
    # with one state besides the first, by hand: it is kept before segments 6, 3 and 1; 3 + 2 + 1, 3 + 2 + 1, 1 + 1
    assert plan.extra_forward == 1 + 14 / 10


def test_plans_say_what_they_cost():
    layer = recur.LSTM(8, 16)
    plan = checkpoint_plan(layer, 10_000, 4, "sqrt")
    assert (plan.segments, plan.segment_length, plan.kept_states, plan.extra_forward) == (100, 100, 99, 1)
    assert plan.state_bytes == 2 * 4 * 16 * 4
    assert plan.peak_bytes < plan.plain_bytes / 50
    fewer = checkpoint_plan(layer, 10_000, 4, 20)
    assert fewer.kept_states == 20
    assert fewer.peak_bytes < plan.peak_bytes
    assert 1 < fewer.extra_forward < 2
    assert checkpoint_plan(layer, 10_000, 4, 399).segment_length == 25
    budget = checkpoint_plan(layer, 10_000, 4, "1MB")
    assert budget.extra_forward == 1
    assert 0.8e6 < budget.peak_bytes <= 1e6
    assert checkpoint_plan(layer, 10_000, 4, "1GB").segments == 1
    assert str(plan).splitlines()[-1] == "cost       1.00 times the forward pass is run again"
    dropping = recur.LSTM(8, 16, 2, dropout=0.5)
    assert checkpoint_plan(dropping, 1000, 4, "sqrt").mask_bytes == 1000 * 4 * 2
    assert checkpoint_plan(dropping.eval(), 1000, 4, "sqrt").mask_bytes == 0


def test_a_budget_is_kept_and_the_least_is_named():
    layer = recur.LSTM(8, 16)
    for budget in (200_000, 50_000, 20_000, 5_000):
        plan = checkpoint_plan(layer, 3000, 1, f"{budget}B")
        assert plan.peak_bytes <= budget
    assert plan.extra_forward > 1
    layer.checkpoint = "300B"
    x = torch.randn(3000, 1, 8)
    with pytest.raises(InputError, match=r"`checkpoint` of 300 bytes is too little for 3000 steps: the least is"):
        layer(x)


@pytest.mark.parametrize("value", ["square", 0, -1, 2.5, True, "5", "5 apples"])
def test_what_is_no_checkpoint_is_refused(value):
    message = (
        r"`checkpoint` must be 'sqrt', a number of kept states above 0, an amount of memory such as '500MB', or None"
    )
    for make in (lambda: recur.LSTM(2, 3, checkpoint=value), lambda: Recurrent("gru", 2, 3, checkpoint=value)):
        with pytest.raises(InputError, match=message):
            make()


def test_threads_that_draw_at_the_same_time_are_no_matter():
    layer = recur.LSTM(3, 4, 2, dropout=0.5, checkpoint="sqrt")
    x = torch.randn(200, 2, 3)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: torch.autograd.grad(layer(x)[0].sum(), layer.weight_hh_l0)[0], range(12)))
    assert all(value.isfinite().all() for value in found)


def test_an_empty_batch_and_one_step():
    layer = recur.LSTM(3, 4, 2, dropout=0.5, checkpoint="sqrt")
    for shape in ((20, 0, 3), (1, 2, 3)):
        output, _ = layer(torch.randn(shape))
        output.sum().backward()
        assert output.shape == (*shape[:2], 4)


def test_compiled_by_torch_it_is_a_plain_run():
    layer = Recurrent("gru", 3, 4, checkpoint="sqrt")
    x = torch.randn(9, 2, 3)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    found = torch.autograd.grad(compiled(x).output.sum(), layer.weight_hh_l0)[0]
    assert torch.allclose(found, torch.autograd.grad(layer(x).output.sum(), layer.weight_hh_l0)[0], atol=1e-5)


def test_sizes_of_a_plan_are_checked():
    with pytest.raises(InputError, match="`layer` must be RNN, LSTM, GRU or Recurrent of recur, got LSTM"):
        checkpoint_plan(torch.nn.LSTM(2, 3), 10)
    with pytest.raises(InputError, match="`steps` must be a whole number above 0, got 0"):
        checkpoint_plan(recur.LSTM(2, 3), 0)


STATUS = Path("/proc/self/status")


def memory(kind: str) -> int:
    return int(next(line for line in STATUS.read_text().splitlines() if line.startswith(kind)).split()[1]) * 1024


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="memory is read from /proc")
def test_the_memory_is_what_was_stated():
    layer = recur.LSTM(4, 128, checkpoint=2)
    layer(torch.zeros(20, 2, 4))[0].sum().backward()
    plan = checkpoint_plan(layer, 24_000, 2, "60MB")
    layer.checkpoint = "60MB"
    # what tests before have freed is given back, not used again unseen
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    before = memory("VmRSS")
    h = layer(torch.zeros(24_000, 2, 4))[1][0]  # 25 MB of outputs are not asked for, and so not kept
    Path("/proc/self/clear_refs").write_text("5")
    h.sum().backward()
    assert memory("VmHWM") - before == pytest.approx(plan.peak_bytes, rel=0.25)
    assert plan.peak_bytes < plan.plain_bytes / 2
