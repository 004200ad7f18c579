"""Each input-output structure on a case worked out by hand."""

import dataclasses
import json
import math
import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import recur
from recur.models import OneToMany, OneToManyConfig, beam_search, greedy

VECTOR = torch.tensor([[1.0, -2.0], [0.5, 3.0]])


def one_to_many(**options: object) -> OneToMany:
    torch.manual_seed(0)
    sizes = {"input_size": 2, "vocabulary_size": 7, "hidden_size": 5, "embedding_size": 4}
    return OneToMany(OneToManyConfig(**{**sizes, **options})).eval()


def test_one_to_one_is_a_feed_forward_network() -> None:
    layer = recur.RNN(3, 4, batch_first=True)
    net = nn.Sequential(recur.AllOutputs(layer), recur.OutputMap(4, 2, bias=True))
    x = torch.randn(5, 1, 3)
    hidden = torch.tanh(x @ layer.weight_ih_l0.T + layer.bias_ih_l0 + layer.bias_hh_l0)
    torch.testing.assert_close(net(x), net[1].linear(hidden))


def test_many_to_one_reads_the_last_state_and_aligned_every_state() -> None:
    layer = recur.GRU(3, 4, batch_first=True)
    x, lengths = torch.randn(3, 6, 3), torch.tensor([6, 2, 4])
    last = recur.LastOutput(layer)(x, lengths=lengths)
    every = recur.AllOutputs(layer)(x, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        h = torch.zeros(1, 1, 4)
        for t in range(length):
            _, h = layer(x[row : row + 1, t : t + 1], h)
            torch.testing.assert_close(every[row, t], h[0, 0])
        torch.testing.assert_close(last[row], h[0, 0])


def test_an_input_at_the_first_step_only_leaves_the_others_to_the_state() -> None:
    model = one_to_many(mode="first", cell="rnn", outputs="numbers", vocabulary_size=3)
    layer = model.decoder.recurrent
    u, w, b = layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0 + layer.bias_hh_l0
    h = torch.tanh(VECTOR @ u.T + b)
    found = model(VECTOR, steps=4)
    for t in range(4):
        torch.testing.assert_close(found[:, t], model.scores(h))
        # U x_t = 0 from here on
        h = torch.tanh(h @ w.T + b)


def test_outputs_fed_back_are_read_as_they_are() -> None:
    model = one_to_many(cell="rnn", outputs="numbers", vocabulary_size=3)
    layer = model.decoder.recurrent
    h = torch.tanh(model.bridge.maps["h"][0](VECTOR))
    y = torch.zeros(2, 3)
    found = model(VECTOR, steps=4)
    for t in range(4):
        x = y @ layer.weight_ih_l0.T + layer.bias_ih_l0
        h = torch.tanh(x + h @ layer.weight_hh_l0.T + layer.bias_hh_l0)
        y = model.scores(h)
        torch.testing.assert_close(found[:, t], y)
    # read again, its own outputs give themselves
    given = torch.cat([torch.zeros(2, 1, 3), found[:, :-1]], 1)
    torch.testing.assert_close(model(VECTOR, given), found)


def test_gradients_flow_through_numbers_that_are_fed_back() -> None:
    model = one_to_many(cell="rnn", outputs="numbers", vocabulary_size=3)
    with torch.no_grad():
        # nothing but what is fed back tells the second step of the first
        model.decoder.recurrent.weight_hh_l0.zero_()
    free = model(VECTOR, steps=2)
    (through,) = torch.autograd.grad(free[:, 1].sum(), model.decoder.recurrent.bias_ih_l0)
    given = torch.stack([torch.zeros(2, 3), free[:, 0].detach()], 1)
    (alone,) = torch.autograd.grad(model(VECTOR, given)[:, 1].sum(), model.decoder.recurrent.bias_ih_l0)
    assert not torch.allclose(through, alone)


@pytest.mark.parametrize("options", [{}, {"cell": "gru", "layers": 2, "tied": True}, {"cell": "mgu"}], ids=str)
def test_tokens_written_from_a_vector_are_those_of_the_whole_row(options: dict[str, object]) -> None:
    model = one_to_many(**options)
    first = torch.full((2,), 2)
    free = model(VECTOR, steps=6)
    read = torch.cat([first[:, None], free.argmax(-1)[:, :-1]], 1)
    torch.testing.assert_close(model(VECTOR, read), free)
    state = model.start(VECTOR)
    for t in range(6):
        logits, state = model.step(read[:, t], state)
        torch.testing.assert_close(logits, free[:, t])
    rows = greedy(model, model.start(VECTOR), first, max_length=6, end=None, banned=())
    assert [row.tokens for row in rows] == free.argmax(-1).tolist()
    beams = beam_search(model, model.start(VECTOR), first, beam=7**2, max_length=2, banned=(), best=1)
    pairs = model(VECTOR, read[:, :2])[:, 0].log_softmax(-1)
    assert beams[0][0].log_probability >= pairs[0, 3].item() - 1e-5


def test_every_number_of_a_one_to_many_gets_a_gradient() -> None:
    for options in ({}, {"mode": "first"}, {"outputs": "numbers"}, {"cell": "gru", "layers": 2, "tied": True}):
        model = one_to_many(**options, dropout=0.1, embedding_dropout=0.1).train()
        model(VECTOR, steps=3).square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, (options, name)
            assert parameter.grad.isfinite().all(), (options, name)


def test_a_config_survives_json() -> None:
    config = one_to_many(cell="gru", mode="first").config
    assert OneToManyConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: one_to_many(mode="frist"), "mode must be one of feedback, first, got 'frist', did you mean 'first'"),
        (lambda: one_to_many(input_size=0), "input_size must be a whole number from 1 up"),
        (lambda: one_to_many(attention="dot"), "attention must be 'none' to go from one vector"),
        (lambda: one_to_many(outputs="numbers", tied=True), "tied needs tokens"),
        (lambda: one_to_many(mode="first", tied=True), "tied needs mode 'feedback'"),
        (lambda: one_to_many(vocabulary_size=3), "vocabulary_size must be a whole number from 4 up"),
        (lambda: one_to_many()(torch.randn(2, 3), steps=2), r"`vector` must be \[B, I\] with I = 2, got \[2, 3\]"),
        (lambda: one_to_many()(VECTOR), "`steps` must be given"),
        (lambda: one_to_many()(VECTOR, steps=0), "`steps` must be at least 1"),
        (lambda: one_to_many()(VECTOR, torch.full((2, 3), 2), steps=3), "got both"),
        (lambda: one_to_many(mode="first")(VECTOR, torch.full((2, 3), 2)), "`given` must be None in mode 'first'"),
        (lambda: one_to_many(mode="first").start(VECTOR), "must have mode 'feedback' to write step by step"),
    ],
)
def test_wrong_arguments_of_one_to_many_are_named(call, text: str) -> None:
    with pytest.raises(recur.InputError, match=text):
        call()


def losses(scores: Tensor, targets: Tensor) -> Tensor:
    return -scores.log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)


def test_a_loss_at_any_set_of_steps() -> None:
    torch.manual_seed(0)
    scores, targets = torch.randn(2, 4, 3), torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
    lengths = torch.tensor([4, 2])
    each = losses(scores, targets)
    loss = recur.sequence_loss
    torch.testing.assert_close(loss(scores, targets), each.mean())
    torch.testing.assert_close(loss(scores, targets, lengths), torch.cat([each[0], each[1, :2]]).mean())
    torch.testing.assert_close(loss(scores, targets, lengths, average="rows"), (each[0].sum() + each[1, :2].sum()) / 2)
    torch.testing.assert_close(loss(scores, targets, lengths, steps=[-1]), (each[0, 3] + each[1, 1]) / 2)
    torch.testing.assert_close(loss(scores, targets, lengths, steps=[0, 3]), (each[0, 0] + each[0, 3] + each[1, 0]) / 3)
    # a step that is named twice, from either end, counts once
    torch.testing.assert_close(loss(scores, targets, lengths, steps=[1, -1]), (each[0, [1, 3]].sum() + each[1, 1]) / 3)
    weights = torch.tensor([0.0, 1.0, 2.0, 3.0])
    expected = (each[0] * weights).sum() + each[1, 1]
    torch.testing.assert_close(loss(scores, targets, lengths, weights=weights), expected / 7)
    torch.testing.assert_close(loss(scores, targets, lengths, weights=weights, average="rows"), expected / 2)


def test_a_loss_of_numbers_is_the_squared_error() -> None:
    scores = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    targets = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert recur.sequence_loss(scores, targets).item() == pytest.approx((2 + 12.5) / 2)
    assert recur.sequence_loss(scores, targets, steps=[-1]).item() == pytest.approx(12.5)


def test_steps_that_do_not_count_have_no_gradient_even_where_they_are_nan() -> None:
    scores = torch.randn(2, 3, 4)
    scores[1, 1:] = math.nan
    scores.requires_grad_()
    recur.sequence_loss(scores, torch.zeros(2, 3, dtype=torch.int64), torch.tensor([3, 1]), steps=[0, 2]).backward()
    assert scores.grad[[0, 0, 1], [0, 2, 0]].any(-1).all()
    assert not scores.grad[[0, 1, 1], [1, 1, 2]].any()


def test_a_batch_without_steps_has_no_loss() -> None:
    scores = torch.randn(2, 3, 4, requires_grad=True)
    loss = recur.sequence_loss(scores, torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == 0
    assert not scores.grad.any()


def test_the_gradient_of_a_sum_of_losses_is_the_sum_of_their_gradients() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(recur.AllOutputs(recur.LSTM(3, 4, batch_first=True)), nn.Linear(4, 2))
    x, targets = torch.randn(2, 5, 3), torch.randint(2, (2, 5))

    def gradient(steps: list[int]) -> list[Tensor]:
        loss = recur.sequence_loss(net(x), targets, steps=steps, average="rows")
        return list(torch.autograd.grad(loss, list(net.parameters())))

    each = [gradient([t]) for t in range(5)]
    for whole, parts in zip(gradient([0, 1, 2, 3, 4]), zip(*each, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.stack(parts).sum(0))


def test_wrong_arguments_of_a_loss_are_named() -> None:
    scores, targets = torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)
    for arguments, options, text in (
        ((scores[0], targets), {}, r"must be \[B, T, C\] and \[B, T\], got \[3, 4\]"),
        ((scores, targets.float()), {}, r"must be \[B, T, K\] and \[B, T, K\]"),
        ((scores, targets, torch.tensor([1])), {}, r"`lengths` must be \[B\] = \[2\]"),
        ((scores, targets), {"weights": torch.ones(2)}, r"`weights` must be \[T\] = \[3\]"),
        ((scores, targets), {"average": "row"}, "did you mean 'rows'"),
    ):
        with pytest.raises(recur.InputError, match=text):
            recur.sequence_loss(*arguments, **options)
    assert F.cross_entropy(scores.flatten(0, 1), targets.flatten()).item() == pytest.approx(
        recur.sequence_loss(scores, targets).item()
    )


def test_the_pictures_are_those_that_are_drawn() -> None:
    docs = Path(__file__).parent.parent / "docs"
    drawn = runpy.run_path(str(docs / "structures.py"))["pictures"]()
    kept = {path.stem: path.read_text(encoding="utf-8") for path in (docs / "structures").glob("*.svg")}
    assert kept == drawn
    page = (docs / "structures.md").read_text(encoding="utf-8")
    assert all(f"](structures/{name}.svg)" in page for name in drawn)
