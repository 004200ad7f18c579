import math

import pytest
import torch
from torch.nn import functional as F

from recur.errors import InputError
from recur.models import softmax
from recur.models.language import LanguageConfig, LanguageModel
from recur.models.softmax import softmax_figures, softmax_loss, token_losses

IDS = torch.randint(1, 30, (3, 12), generator=torch.Generator().manual_seed(1))


def model(**options):
    given = {"vocabulary_size": 30, "cell": "lstm", "layers": 2, "hidden_size": 12} | options
    return LanguageModel(LanguageConfig(**given))


@pytest.mark.parametrize("scores", [1, 3 * 11, 1 << 21])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softmax_loss_is_cross_entropy_with_its_gradients(scores, dtype, monkeypatch):
    monkeypatch.setattr(softmax, "SCORES", scores)
    given = [torch.randn(*shape, dtype=dtype).requires_grad_() for shape in ((10, 4), (11, 4), (11,))]
    targets = torch.randint(0, 11, (10,))
    hidden, weight, bias = given
    (3 * softmax_loss(hidden, weight, bias, targets)).backward()
    found = [value.grad.clone() for value in given]
    for value in given:
        value.grad = None
    loss = F.cross_entropy(F.linear(hidden, weight, bias), targets)
    (3 * loss).backward()
    for value, gradient in zip(given, found, strict=True):
        torch.testing.assert_close(gradient, value.grad, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(softmax_loss(hidden, weight, bias, targets), loss)
    each = token_losses(hidden, weight, bias, targets)
    torch.testing.assert_close(each, F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="none"))


@pytest.mark.parametrize("scores", [1, 3 * 11, 1 << 21])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_softmax_figures_are_those_of_the_scores(scores, smoothing, monkeypatch):
    monkeypatch.setattr(softmax, "SCORES", scores)
    torch.manual_seed(0)
    given = [torch.randn(*shape).requires_grad_() for shape in ((10, 4), (11, 4), (11,))]
    targets = torch.randint(0, 11, (10,))
    logits = F.linear(*given)
    wanted = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    expected = [wanted, F.cross_entropy(logits, targets), (logits.argmax(1) == targets).float().mean()]
    found = softmax_figures(*given, targets, smoothing)
    torch.testing.assert_close(list(found), expected)
    assert [one.requires_grad for one in found] == [True, False, False]
    torch.testing.assert_close(torch.autograd.grad(found.loss, given), torch.autograd.grad(wanted, given))
    with torch.no_grad():
        torch.testing.assert_close(list(softmax_figures(*given, targets, smoothing)), expected)


def test_a_token_that_cannot_be_has_a_finite_loss():
    hidden = torch.full((1, 1), 1e4, requires_grad=True)
    loss = softmax_loss(hidden, torch.tensor([[1.0], [-1.0]]), torch.zeros(2), torch.tensor([1]))
    assert math.isfinite(loss.detach())


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "mgu", "slstm"])
@pytest.mark.parametrize("options", [{}, {"tied": True, "embedding_size": 7}, {"tied": True}, {"residual": True}])
def test_windows_with_a_carried_state_and_single_steps_give_the_scores_of_the_whole(cell, options):
    network = model(cell=cell, **options).eval()
    whole = network(IDS)
    scores = network.scores(whole.hidden)
    first = network(IDS[:, :5])
    second = network(IDS[:, 5:], first.state)
    parts = network.scores(torch.cat([first.hidden, second.hidden], 1))
    stream = network.stream(3)
    steps = torch.stack([stream.step(ids) for ids in IDS.T], 1)
    assert (scores[..., 0] == -math.inf).all()
    torch.testing.assert_close(parts[..., 1:], scores[..., 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(steps[..., 1:], scores[..., 1:], atol=1e-5, rtol=1e-5)
    stream.reset([1])
    again = stream.step(IDS[:, 0])
    torch.testing.assert_close(again[1, 1:], scores[1, 0, 1:], atol=1e-5, rtol=1e-5)


def test_loss_and_losses_are_those_of_the_scores():
    network = model(tied=True)
    read = network(IDS[:, :-1])
    wanted = F.cross_entropy(network.scores(read.hidden).flatten(0, 1), IDS[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(network.losses(read.hidden, IDS[:, 1:]).flatten(), wanted)
    torch.testing.assert_close(network.loss(read.hidden, IDS[:, 1:]), wanted.mean())


def test_tied_scores_use_the_vectors_of_the_tokens():
    assert model(tied=True).parameter_count == model().parameter_count - 30 * 12
    network = model(tied=True)
    network.loss(network(IDS[:, :-1]).hidden, IDS[:, 1:]).backward()
    assert network.embedding.word.weight.grad[0].abs().max() == 0
    # also of those that are not read
    assert (network.embedding.word.weight.grad[1:].abs().amax(1) > 0).all()


def test_dropout_is_the_same_all_along_a_window():
    network = model(output_dropout=0.5, hidden_size=64)
    read = network(IDS)
    dropped = read.hidden == 0
    assert 0.2 < dropped.float().mean() < 0.8
    assert (dropped == dropped[:, :1]).all()
    assert (dropped[0] != dropped[1]).any()
    torch.testing.assert_close(read.hidden[~dropped], 2 * read.output[~dropped])


def test_word_dropout_takes_words_from_the_whole_window():
    network = model(word_dropout=0.5)
    vectors = network._vectors(IDS)
    gone = vectors.abs().amax(-1) == 0
    assert 0 < gone.float().mean() < 1
    for word in IDS.unique():
        assert len(gone[word == IDS].unique()) == 1
    torch.testing.assert_close(vectors[~gone], 2 * network.embedding(IDS)[~gone])


def test_it_begins_with_the_frequencies_of_the_tokens():
    network = model().eval()
    counts = torch.arange(30)
    network.start_at(counts)
    share = network.scores(torch.zeros(1, 12)).softmax(-1)[0]
    torch.testing.assert_close(share[1:], (counts[1:] + 1) / (counts[1:] + 1).sum())
    assert share[0] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vocabulary_size": 2}, "vocabulary_size must be a whole number from 3 up, got 2"),
        ({"embedding_size": 0}, "embedding_size must be a whole number from 1 up, got 0"),
        ({"output_dropout": 1.0}, "output_dropout must be from 0 up to, not including, 1, got 1.0"),
        ({"cell": "lst"}, "lstm"),
        ({"layers": 1, "residual": True}, "residual needs layers 2 or more"),
    ],
)
def test_options_out_of_range_are_named(options, words):
    with pytest.raises(InputError, match=words):
        model(**options)


def test_a_stream_wants_evaluation_and_a_token_for_each_row():
    with pytest.raises(InputError, match=r"call model\.eval\(\)"):
        model().stream()
    with pytest.raises(InputError, match=r"`tokens` must be \[B\] = \[2\], got \[3\]"):
        model().eval().stream(2).step(torch.ones(3, dtype=torch.int64))
