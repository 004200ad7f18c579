"""The encoder-decoder: step by step against all at once, padded rows against rows alone, and what it can learn."""

import dataclasses
import json

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recur.errors import InputError
from recur.models import EncoderDecoder, EncoderDecoderConfig, beam_search, forcing_rate, greedy

SOURCE = torch.tensor([[5, 9, 3, 0], [7, 7, 8, 4], [0, 0, 0, 0], [6, 0, 0, 0]])
LENGTHS = torch.tensor([3, 4, 0, 1])
TARGET = torch.tensor([[2, 4, 5, 6, 7], [2, 9, 0, 0, 0], [2, 5, 5, 0, 0], [2, 6, 7, 8, 0]])
TARGET_LENGTHS = torch.tensor([5, 2, 3, 4])
VALID = torch.arange(5) < TARGET_LENGTHS[:, None]

KINDS = [
    {},
    {"attention": "none"},
    {"attention": "additive", "cell": "gru", "layers": 2, "bidirectional": False},
    {"attention": "dot", "bidirectional": False, "layers": 2, "residual": True},
    {"input_feeding": True},
    {"tied": True, "cell": "mgu"},
    {"tied": True, "attention": "none", "input_feeding": False, "zoneout": 0.1},
    {"input_feeding": True, "tied": True, "attention": "additive", "cell": "rnn", "layers": 2},
]


def small(**options: object) -> EncoderDecoderConfig:
    sizes = {"source_vocabulary_size": 12, "vocabulary_size": 11, "hidden_size": 6, "embedding_size": 5}
    return EncoderDecoderConfig(**{**sizes, **options})


def built(**options: object) -> EncoderDecoder:
    torch.manual_seed(0)
    return EncoderDecoder(small(**options)).eval()


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_step_by_step_gives_the_logits_of_the_whole_row(options: dict[str, object]) -> None:
    model = built(**options)
    whole = model(SOURCE, LENGTHS, TARGET, TARGET_LENGTHS)
    state = model.start(SOURCE, LENGTHS)
    for t in range(TARGET.shape[1]):
        logits, state = model.step(TARGET[:, t], state)
        torch.testing.assert_close(logits[VALID[:, t]], whole[:, t][VALID[:, t]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_padded_row_is_scored_as_the_row_alone(options: dict[str, object]) -> None:
    model = built(**options)
    whole = model(SOURCE, LENGTHS, TARGET, TARGET_LENGTHS)
    assert whole.shape == (4, 5, 11)
    for row, (read, wrote) in enumerate(zip(LENGTHS.tolist(), TARGET_LENGTHS.tolist(), strict=True)):
        one = slice(row, row + 1)
        alone = model(SOURCE[one, :read], LENGTHS[one], TARGET[one, :wrote], TARGET_LENGTHS[one])
        torch.testing.assert_close(whole[one, :wrote], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_every_number_gets_a_finite_gradient(options: dict[str, object]) -> None:
    model = built(**options, dropout=0.2, embedding_dropout=0.2, recurrent_dropout=0.1).train()
    for forcing in (1.0, 0.5):
        model.zero_grad()
        states = model.states(SOURCE, LENGTHS, TARGET, TARGET_LENGTHS, forcing)
        F.cross_entropy(model.scores(states), TARGET[VALID]).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_the_loop_is_the_fused_path_where_every_token_is_given() -> None:
    model = built(layers=2)
    fused = model.decoder.read(TARGET, model.start(SOURCE, LENGTHS))
    # 1 but for rounding: all are given, one step after the other
    loop = model.decoder.read(TARGET, model.start(SOURCE, LENGTHS), forcing=1 - 1e-12)
    torch.testing.assert_close(fused.readout, loop.readout)
    torch.testing.assert_close(fused.weights, loop.weights)
    torch.testing.assert_close(fused.state.recurrent.c, loop.state.recurrent.c)


def test_states_are_those_of_the_valid_steps_in_the_order_of_the_targets() -> None:
    model = built()
    states = model.states(SOURCE, LENGTHS, TARGET, TARGET_LENGTHS)
    assert states.shape == (14, 6)
    whole = model(SOURCE, LENGTHS, TARGET, TARGET_LENGTHS)
    torch.testing.assert_close(model.scores(states), whole[VALID])


def test_the_loss_is_that_of_the_scores() -> None:
    model = built(tied=True)
    states = model.states(SOURCE, LENGTHS, TARGET, TARGET_LENGTHS)
    found = model.loss(states, TARGET[VALID], label_smoothing=0.1)
    expected = F.cross_entropy(model.scores(states), TARGET[VALID], label_smoothing=0.1)
    torch.testing.assert_close(found.loss, expected)
    parameters = list(model.parameters())
    found = torch.autograd.grad(found.loss, parameters)
    states = model.states(SOURCE, LENGTHS, TARGET, TARGET_LENGTHS)
    expected = F.cross_entropy(model.scores(states), TARGET[VALID], label_smoothing=0.1)
    torch.testing.assert_close(found, torch.autograd.grad(expected, parameters), atol=1e-6, rtol=1e-4)


def test_without_forcing_the_model_reads_what_it_scores_highest() -> None:
    model = built()
    logits = model(SOURCE, LENGTHS, TARGET, TARGET_LENGTHS, forcing=0.0)
    read = torch.cat([TARGET[:, :1], logits.argmax(-1)[:, :-1]], 1)
    torch.testing.assert_close(model(SOURCE, LENGTHS, read, torch.full((4,), 5)), logits, atol=1e-5, rtol=1e-5)
    assert not torch.equal(read[:, 1:], TARGET[:, 1:])


def test_forcing_is_drawn_for_every_row_and_step() -> None:
    model = built(hidden_size=2, attention="none")
    seen: list[Tensor] = []
    model.decoder.embedding.register_forward_hook(lambda module, given, output: seen.append(given[0]))
    # ids that the model cannot score highest: with a bias against it
    with torch.no_grad():
        model.decoder.scores.bias[10] = -100
    target = torch.full((400, 6), 10)
    model(SOURCE[:1].expand(400, 4), LENGTHS[:1].expand(400), target, torch.full((400,), 6), forcing=0.7)
    given = torch.cat(seen, 1) == 10
    assert given[:, 0].all()
    assert given[:, 1:].float().mean() == pytest.approx(0.7, abs=0.05)
    assert len({tuple(row) for row in given.tolist()}) > 16


def test_the_bridge_makes_every_state_of_every_layer_from_its_own() -> None:
    model = built(layers=2)
    _, (h, c) = model.encoder(model.embedding(SOURCE), lengths=LENGTHS)
    state = model.start(SOURCE, LENGTHS).recurrent
    for layer in range(2):
        for name, final in (("h", h), ("c", c)):
            both = torch.cat([final[2 * layer], final[2 * layer + 1]], -1)
            expected = torch.tanh(model.bridge.maps[name][layer](both))
            torch.testing.assert_close(getattr(state, name)[layer], expected)


def test_tied_weights_are_one_tensor() -> None:
    model = built(tied=True)
    assert model.decoder.scores.weight is model.decoder.embedding.word.weight
    assert model.parameter_count < built().parameter_count + 5 * 12


def test_shared_vectors_are_one_table_for_both_sides() -> None:
    model = built(shared=True, tied=True, source_vocabulary_size=11)
    assert model.embedding.word is model.decoder.embedding.word
    assert model.embedding.word.weight is model.decoder.scores.weight
    assert model(SOURCE.clamp(max=10), LENGTHS, TARGET, TARGET_LENGTHS).shape == (4, 5, 11)
    with pytest.raises(InputError, match="must be vocabulary_size = 11 for shared vectors, got 12"):
        built(shared=True)


def test_attention_weights_are_of_the_source_tokens() -> None:
    weights = built().attention_weights(SOURCE, LENGTHS, TARGET, TARGET_LENGTHS)
    assert weights.shape == (4, 5, 4)
    torch.testing.assert_close(weights[[0, 1, 3]].sum(-1), torch.ones(3, 5))
    assert not weights[0, :, 3:].any()
    assert not weights[2].any()
    with pytest.raises(InputError, match="must have attention"):
        built(attention="none").attention_weights(SOURCE, LENGTHS, TARGET, TARGET_LENGTHS)


def test_a_batch_of_empty_sources_is_read() -> None:
    model = built()
    assert model.start(torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 0])).recurrent.h.shape == (1, 2, 6)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_what_is_written_has_the_probability_that_the_whole_row_has(options: dict[str, object]) -> None:
    model = built(**options)
    first = torch.full((4,), 2)
    with torch.no_grad():
        model.decoder.scores.weight *= 5
    rows = greedy(model, model.start(SOURCE, LENGTHS), first, max_length=7)
    beams = beam_search(model, model.start(SOURCE, LENGTHS), first, beam=3, best=3, max_length=7)
    for n, found in enumerate([[row, *beam] for row, beam in zip(rows, beams, strict=True)]):
        for row in found:
            wrote = [*row.tokens, *([3] if row.finished else [])]
            read = torch.tensor([[2, *wrote[:-1]]])
            logits = model(SOURCE[n : n + 1], LENGTHS[n : n + 1], read, torch.tensor([len(wrote)]))
            total = logits[0].log_softmax(-1)[torch.arange(len(wrote)), wrote].sum()
            assert row.log_probability == pytest.approx(total.item(), abs=1e-3)


def test_it_learns_to_turn_a_row_around() -> None:
    torch.manual_seed(1)
    # additive scores find the way within a hundred steps from any start
    model = EncoderDecoder(small(hidden_size=32, embedding_size=16, attention="additive"))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(90):
        source, lengths = torch.randint(4, 11, (64, 4)), torch.full((64,), 4)
        ends = torch.full((64, 1), 3)
        target = torch.cat([torch.full((64, 1), 2), source.flip(1)], 1)
        states = model.states(source, lengths, target, lengths + 1)
        loss = model.loss(states, torch.cat([source.flip(1), ends], 1).flatten()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    source = torch.randint(4, 11, (50, 4))
    rows = greedy(model, model.start(source, torch.full((50,), 4)), torch.full((50,), 2), max_length=10)
    right = sum(row.tokens == one for row, one in zip(rows, source.flip(1).tolist(), strict=True))
    assert right >= 40


def test_a_config_survives_json() -> None:
    config = small(cell="gru", attention="additive", tied=True, zoneout=0.1)
    assert EncoderDecoderConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"vocabulary_size": 3}, "vocabulary_size must be a whole number from 4 up, got 3"),
        ({"source_vocabulary_size": 1}, "source_vocabulary_size must be a whole number from 2 up"),
        ({"attention": "adding"}, "attention must be one of additive, multiplicative, dot, none, got 'adding'"),
        ({"dropout": 1.0}, "dropout must be from 0 up to, not including, 1"),
        ({"attention": "none", "input_feeding": True}, "input_feeding needs attention"),
        ({"residual": True}, "residual needs layers 2 or more"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        small(**options)


def test_forcing_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match=r"`forcing` must be from 0 to 1, got 1\.5"):
        built()(SOURCE, LENGTHS, TARGET, TARGET_LENGTHS, forcing=1.5)


def test_schedules_are_the_papers() -> None:
    assert [forcing_rate(i, "linear", 0.3) for i in (0, 1, 5)] == pytest.approx([1, 0.7, 0])
    assert [forcing_rate(i, "exponential", 0.9, floor=0.5) for i in (0, 2, 50)] == pytest.approx([1, 0.81, 0.5])
    assert forcing_rate(0, "inverse-sigmoid", 9) == pytest.approx(0.9)
    assert forcing_rate(10**6, "inverse-sigmoid", 9) == 0
    for arguments, text in (
        ((0, "linaer", 0.1), "did you mean 'linear'"),
        ((0, "linear", 2), "`k` must be above 0, at most 1"),
        ((0, "inverse-sigmoid", 0.5), "`k` must be at least 1"),
        ((-1, "linear", 0.5), "`step` from 0 up"),
    ):
        with pytest.raises(InputError, match=text):
            forcing_rate(*arguments)
