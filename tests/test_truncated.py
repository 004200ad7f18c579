"""Truncated BPTT, exact gradients by segments, and the bias of truncation: against autograd and against formulas."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recur
from recur import InputError, Recurrent, State, TruncatedBPTT, segmented, truncation_bias
from recur.data import StreamWindows, Window, write_stream


class Linear(nn.Module):
    """h_t = a h_{t-1} + w x_t, with a fixed: the gradient of h_T with respect to w is a sum of powers of a."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a, self.w = a, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        h = x.new_zeros(x.shape[1:]) if h is None else h
        states = []
        for x_t in x:
            h = self.a * h + self.w * x_t
            states.append(h)
        return torch.stack(states), h


def summed(module: nn.Module, state: Any, x: Tensor) -> tuple[Tensor, Any]:
    output, state = module(x, state)
    return output.sum(), state


def last_only(module: nn.Module, state: Any, window: dict[str, Tensor]) -> tuple[Tensor, Any]:
    """The loss is the state at the steps that are marked."""
    output, state = module(window["x"], state)
    return (output * window["mark"]).sum(), state


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def geometric(a: float, terms: int) -> float:
    return (1 - a**terms) / (1 - a)


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (5, 5), (5, 20), (4, 10), (7, 3), (20, 40), (3, 100)])
def test_the_gradient_of_a_linear_recurrence_is_a_partial_geometric_sum(k1, k2):
    # dh_T/dw = 1 + a + ... + a^(T-1); through k2 steps the sum breaks off after k2 terms
    module, x = Linear(0.9), torch.ones(40, 1, dtype=torch.float64)
    bptt = TruncatedBPTT(module, summed, k1=k1, k2=k2, reduction="sum")
    for start in range(0, 40, k1):
        window = x[start : start + k1]
        end = start + len(window)
        update = bptt.step(window)
        begin = max(0, end - k2)
        # each new step t in the graph is a sum of its own, down to where the graph begins
        expected = sum(geometric(0.9, t + 1 - begin) for t in range(max(start, begin), end))
        assert gradients(module)["w"].item() == pytest.approx(expected)
        assert update.through == end - begin
        assert update.loss == pytest.approx(sum(geometric(0.9, t + 1) for t in range(start, end)))


def test_the_bias_of_a_linear_recurrence_is_its_formula():
    module, steps = Linear(0.9), 60
    inputs = {"x": torch.ones(steps, 1, dtype=torch.float64), "mark": torch.zeros(steps, 1, dtype=torch.float64)}
    inputs["mark"][-1] = 1
    bias = truncation_bias(module, last_only, inputs, k2=[1, 5, 20, 60, 99], k1=1, reduction="sum")
    assert bias.norm == pytest.approx(geometric(0.9, 60))
    for row in bias.rows:
        terms = min(row.k2, steps)
        share = geometric(0.9, terms) / geometric(0.9, steps)
        assert row.overall.norm_ratio == pytest.approx(share)
        assert row.overall.relative_error == pytest.approx(1 - share, abs=1e-9)
        assert row.parameters["w"].cosine == pytest.approx(1)
        assert row.longest_lag == terms - 1
    assert [row.k2 for row in bias.rows] == [1, 5, 20, 60, 99]
    assert len(str(bias).splitlines()) == 7


def reach(k1: int, k2: int, steps: int) -> tuple[int, float]:
    """The longest and the mean lag, from which inputs the losses give a gradient to."""
    module, lags = Linear(0.9), []
    for step in range(steps):
        x, mark = torch.ones(steps, 1, dtype=torch.float64, requires_grad=True), torch.zeros(steps, 1).double()
        mark[step] = 1
        bptt = TruncatedBPTT(module, last_only, k1=k1, k2=k2, reduction="sum")
        for start in range(0, steps, k1):
            bptt.step({"x": x[start : start + k1], "mark": mark[start : start + k1]})
            # what is carried into a later window comes without history, and so do its inputs
        touched = [] if x.grad is None else x.grad.nonzero()[:, 0].tolist()
        lags += [step - min(touched)] if touched else []
    return max(lags), sum(lags) / len(lags)


@pytest.mark.parametrize(("k1", "k2"), [(4, 4), (6, 3)])
def test_the_lags_are_those_of_the_inputs_that_get_a_gradient(k1, k2):
    x = {"x": torch.ones(24, 1, dtype=torch.float64), "mark": torch.ones(24, 1, dtype=torch.float64)}
    row = truncation_bias(Linear(0.9), last_only, x, k1=k1, k2=k2).rows[0]
    assert (row.longest_lag, row.mean_lag) == reach(k1, k2, 24)
    assert row.learned == min(1, k2 / k1)


class Tagger(nn.Module):
    """A model with a loss at every step, some dropout, and any cell."""

    def __init__(self, cell: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.recurrent = Recurrent(cell, 6, 7, 2, dropout=dropout)
        self.out = nn.Linear(7, 11)

    def forward(self, tokens: Tensor, state: Any, resets: Tensor | None = None) -> tuple[Tensor, Any]:
        output, state = self.recurrent(self.embedding(tokens), state, resets=resets)
        return self.out(output), state


def token_loss(module: nn.Module, state: Any, window: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
    tokens, resets = window
    scores, state = module(tokens, state, resets)
    return nn.functional.cross_entropy(scores.flatten(0, 1), (tokens * 3 % 11).flatten()), state


def tokens(steps: int, rows: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randint(11, (steps, rows)), torch.rand(steps, rows) < 0.1


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "slstm", "mingru"])
def test_k2_of_the_whole_stream_is_full_bptt_and_k1_equal_to_k2_is_detaching(cell):
    module, (x, resets) = Tagger(cell).double(), tokens(24)
    state, windows = None, [(x[i : i + 6], resets[i : i + 6]) for i in range(0, 24, 6)]
    bptt = TruncatedBPTT(module, token_loss, k1=6)
    for window in windows:
        loss, state = token_loss(module, state, window)
        loss.backward()
        expected = gradients(module)
        assert bptt.step(window).loss == pytest.approx(loss.item())
        found = gradients(module)
        assert all(torch.allclose(found[name], value) for name, value in expected.items())
        state = state.map(torch.Tensor.detach)
    token_loss(module, None, (x, resets))[0].backward()
    expected = gradients(module)
    assert TruncatedBPTT(module, token_loss, k1=24, k2=24).step((x, resets)).through == 24
    assert all(
        torch.allclose(value, gradients_)
        for value, gradients_ in zip(expected.values(), gradients(module).values(), strict=True)
    )
    # overlapping: the last update goes through all, and its loss is that of the last window
    bptt = TruncatedBPTT(module, token_loss, k1=6, k2=24)
    for window in windows:
        module.zero_grad()
        bptt.step(window)
    found = gradients(module)
    scores = module(x, None, resets)[0][18:]
    nn.functional.cross_entropy(scores.flatten(0, 1), (x[18:] * 3 % 11).flatten()).backward()
    assert all(torch.allclose(found[name], value) for name, value in gradients(module).items())


def test_overlapping_windows_use_the_weights_of_now_and_a_state_of_k2_steps_ago():
    module = Linear(0.5)
    x = torch.arange(1.0, 13, dtype=torch.float64)[:, None]
    bptt, states = TruncatedBPTT(module, summed, k1=2, k2=5, reduction="sum"), {0: 0.0}
    for number in range(6):
        stop = 2 * number + 2
        begin = max(0, stop - 5)
        h, total, slope, d = states[begin], 0.0, 0.0, 0.0
        for t in range(begin, stop):
            h = 0.5 * h + module.w.item() * x[t].item()
            d = 0.5 * d + x[t].item()
            states[t + 1] = h
            if t >= stop - 2:
                total, slope = total + h, slope + d
        assert bptt.step(x[stop - 2 : stop]).loss == pytest.approx(total)
        assert gradients(module)["w"].item() == pytest.approx(slope)
        with torch.no_grad():
            module.w += 0.25


def test_batch_first_windows_and_a_short_last_one():
    x = torch.randn(2, 25, 4)
    layer = recur.LSTM(4, 4, batch_first=True)

    def loss(module: nn.Module, state: Any, window: Tensor) -> tuple[Tensor, Any]:
        output, state = module(window, state)
        return output.square().mean(), state

    bptt = TruncatedBPTT(layer, loss, k1=10, k2=15, time=1)
    assert [(u.steps, u.through) for u in bptt.updates(x.split(10, 1))] == [(10, 10), (10, 15), (5, 10)]
    bptt.reset()
    assert bptt.step(x[:, :10]).through == 10


@pytest.mark.parametrize("checkpoint", [None, "sqrt", 1, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_segmented_gives_the_gradient_of_the_whole(checkpoint, dropout):
    module, (x, resets) = Tagger("lstm", dropout).double(), tokens(30)
    parts = list(zip(x.split(4), resets.split(4), strict=True))
    state = State(**{name: torch.rand(2, 3, 7, dtype=torch.float64, requires_grad=True) for name in "hc"})
    torch.manual_seed(1)
    total, now = torch.zeros(()), state
    for part in parts:
        loss, now = token_loss(module, now, part)
        total = total + loss
    total.backward()
    expected, after = gradients(module), torch.rand(3)
    d_state = [value.grad.clone() for value in state]
    for value in state:
        value.grad = None
    torch.manual_seed(1)
    result = segmented(module, token_loss, parts, state, checkpoint=checkpoint)
    assert result.loss == pytest.approx(total.item())
    assert all(torch.allclose(value, expected[name]) for name, value in gradients(module).items())
    assert all(torch.allclose(value.grad, d) for value, d in zip(state, d_state, strict=True))
    assert all(torch.allclose(a, b) for a, b in zip(result.state, now, strict=True))
    # random numbers go on as after the whole
    assert torch.equal(torch.rand(3), after)


def test_segmented_runs_each_segment_as_often_as_the_schedule_says():
    module, runs = Linear(0.5), []

    def loss(module: nn.Module, state: Any, x: Tensor) -> tuple[Tensor, Any]:
        runs.append(torch.is_grad_enabled())
        return summed(module, state, x)

    parts = torch.ones(20, 1, dtype=torch.float64).split(2)
    for checkpoint, advanced in ((None, 9), (1, 20), (3, 14)):
        runs.clear()
        segmented(module, loss, parts, checkpoint=checkpoint)
        assert (runs.count(True), runs.count(False)) == (10, advanced)


def test_segments_and_windows_come_from_disk(tmp_path: Path):
    stream = write_stream(tmp_path / "s", [torch.randint(11, (40,)) for _ in range(5)])
    windows, module = StreamWindows(stream, 3, 7), Tagger("gru").double()

    def loss(module: nn.Module, state: Any, window: Window) -> tuple[Tensor, Any]:
        scores, state = module(window.inputs, state, window.resets)
        return nn.functional.cross_entropy(scores.flatten(0, 1), window.targets.flatten(), reduction="sum"), state

    whole = StreamWindows(stream, 3, 1000)[0]
    value = loss(module, None, whole)[0]
    value.backward()
    expected = gradients(module)
    assert segmented(module, loss, windows, checkpoint=2).loss == pytest.approx(value.item())
    assert all(torch.allclose(found, expected[name]) for name, found in gradients(module).items())
    bptt = TruncatedBPTT(module, loss, k1=7, k2=100, reduction="sum")
    assert [update.steps for update in bptt.updates(windows)] == [7] * 9 + [3]
    module.zero_grad()
    rows = truncation_bias(module, loss, whole, k2=[3, 66], reduction="sum").rows
    assert rows[0].overall.cosine < rows[1].overall.cosine == pytest.approx(1)


def test_a_segment_without_loss_passes_the_gradient_on():
    module, x = Linear(0.5), torch.ones(6, 1, dtype=torch.float64)
    marks = torch.zeros(6, 1, dtype=torch.float64)
    marks[-1] = 1
    parts = [{"x": a, "mark": b} for a, b in zip(x.split(2), marks.split(2), strict=True)]

    def loss(module: nn.Module, state: Any, part: dict[str, Tensor]) -> tuple[Any, Any]:
        value, state = last_only(module, state, part)
        return (value if part["mark"].any() else 0.0), state

    assert segmented(module, loss, parts).loss == pytest.approx(geometric(0.5, 6))
    assert module.w.grad.item() == pytest.approx(geometric(0.5, 6))


def test_bias_leaves_the_module_as_it_was():
    module, (x, resets) = Tagger("gru", 0.5), tokens(30)
    module.out.eval()
    module.out.bias.grad = torch.ones(11)
    before = torch.get_rng_state()
    bias = truncation_bias(module, token_loss, (x, resets), k2=[2, 30])
    assert (module.training, module.out.training) == (True, False)
    assert torch.equal(module.out.bias.grad, torch.ones(11))
    assert module.embedding.weight.grad is None
    assert torch.equal(torch.get_rng_state(), before)
    short, whole = (row.overall for row in bias.rows)
    assert short.cosine < whole.cosine == pytest.approx(1)
    assert whole.relative_error < 1e-5 < short.relative_error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: TruncatedBPTT(m, summed, k1=0), "`k1` must be a number of steps above 0, got 0"),
        (lambda m: TruncatedBPTT(m, summed, k1=3, k2=-1), "`k2` must be a number of steps above 0, got -1"),
        (lambda m: TruncatedBPTT(m, summed, k1=3, reduction="max"), "`reduction` must be 'mean' or 'sum', got 'max'"),
        (lambda m: TruncatedBPTT(m, summed, k1=3).step(torch.ones(4, 1)), "must have 1 to k1 = 3 steps, got 4"),
        (lambda m: TruncatedBPTT(m, summed, k1=3).step([torch.ones(3), torch.ones(2)]), "of one length .* got 2 and 3"),
        (lambda m: TruncatedBPTT(m, summed, k1=3).step("words"), "got no tensor"),
        (
            lambda m: TruncatedBPTT(m, lambda *_: 3, k1=3).step(torch.ones(3, 1)),
            r"must return \(loss, state\), got int",
        ),
        (lambda m: TruncatedBPTT(m, lambda m, s, w: (w, s), k1=3).step(torch.ones(3, 1)), r"loss of shape \[3, 1\]"),
        (lambda m: TruncatedBPTT(m, lambda m, s, w: (w.sum(), s), k1=3).step(torch.ones(3, 1)), "must depend on param"),
        (
            lambda m: TruncatedBPTT(m, lambda m, s, w: (m(w, s)[0].sum(), object()), k1=3).step(torch.ones(3, 1)),
            "object",
        ),
        (lambda m: truncation_bias(m, summed, torch.ones(3, 1), k2=[1, 0]), "`k2` must be numbers of steps above 0"),
        (
            lambda m: list(TruncatedBPTT(m, summed, k1=3, k2=5).updates([torch.ones(3, 2), torch.ones(3, 1)])),
            "same rows",
        ),
        (lambda m: segmented(m, summed, []), "`segments` must hold at least one segment"),
        (
            lambda m: segmented(m, summed, [torch.ones(3, 1)], checkpoint=0),
            "`checkpoint` must be a number of kept states",
        ),
        (lambda m: truncation_bias(m, lambda m, s, w: (w.sum(), s), torch.ones(3, 1), k2=2), "gradient of norm 0"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(Linear(0.5))


TRAINING = """
import sys
import torch
from torch import nn
from recur import LSTM, TruncatedBPTT
from recur.data import StreamWindows

stream, out, stop, resume = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "resume"
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.ModuleDict({"embed": nn.Embedding(20, 8), "lstm": LSTM(8, 12, 2, dropout=0.4), "out": nn.Linear(12, 20)})
optimiser = torch.optim.Adam(model.parameters(), 1e-2)


def loss(model, state, window):
    output, state = model["lstm"](model["embed"](window.inputs), state, resets=window.resets)
    return nn.functional.cross_entropy(model["out"](output).flatten(0, 1), window.targets.flatten()), state


windows = StreamWindows(stream, batch_size=4, steps=5)
bptt = TruncatedBPTT(model, loss, k1=5, k2=12)
parts = {"model": model, "optimiser": optimiser, "windows": windows, "bptt": bptt}
if resume:
    for name, state in torch.load(out, weights_only=True).items():
        parts[name].load_state_dict(state)
done = 0
while windows.epoch < 2:
    for window in windows:
        bptt.step(window)
        optimiser.step()
        optimiser.zero_grad()
        done += 1
        if done == stop:
            torch.save({name: part.state_dict() for name, part in parts.items()}, out)
            import os
            os._exit(9)
    bptt.reset()
torch.save({name: part.state_dict() for name, part in parts.items()}, out)
"""


def test_killed_and_resumed_in_another_process_is_uninterrupted_to_the_bit(tmp_path: Path):
    generator = torch.Generator().manual_seed(2)
    documents = [torch.randint(2, 20, (int(n),), generator=generator) for n in torch.randint(1, 40, (20,))]
    stream = write_stream(tmp_path / "stream", documents, end=1).path

    def train(out: str, stop: int, how: str) -> int:
        arguments = [sys.executable, "-c", TRAINING, str(stream), str(tmp_path / out), str(stop), how]
        return subprocess.run(arguments, cwd=Path(recur.__file__).parents[1]).returncode

    assert train("whole", -1, "new") == 0
    # in the middle of the second epoch
    assert train("parts", 27, "new") == 9
    assert train("parts", -1, "resume") == 0
    whole, parts = (torch.load(tmp_path / name, weights_only=True) for name in ("whole", "parts"))
    for name, value in whole["model"].items():
        assert torch.equal(parts["model"][name], value), name
    assert whole["windows"] == parts["windows"]
    assert torch.equal(whole["bptt"]["random"][0], parts["bptt"]["random"][0])


def test_a_state_of_other_lengths_is_refused():
    bptt = TruncatedBPTT(Linear(0.5), summed, k1=3)
    with pytest.raises(InputError, match=r"belongs to k1 = 3, k2 = 3, not to 3, 6"):
        TruncatedBPTT(Linear(0.5), summed, k1=3, k2=6).load_state_dict(bptt.state_dict())
