"""The recurrent tagger, and the conditional random field on top of it."""

import dataclasses
import itertools
import json

import pytest
import torch

from recur.errors import InputError
from recur.layers.crf import CRF
from recur.models import Tagger, TaggerConfig

WORDS = torch.tensor([[5, 9, 3, 0], [7, 7, 8, 4], [0, 0, 0, 0], [6, 0, 0, 0]])
LENGTHS = torch.tensor([3, 4, 0, 1])
SPELLED = torch.tensor([[1, 2, 3, 0], [4, 4, 2, 1], [0, 0, 0, 0], [3, 0, 0, 0]])
LETTERS = torch.tensor([[0, 0, 0], [2, 3, 4], [5, 0, 0], [6, 2, 0], [2, 3, 5]])
LETTER_LENGTHS = torch.tensor([0, 3, 1, 2, 3])
INPUTS = (WORDS, LENGTHS, SPELLED, LETTERS, LETTER_LENGTHS)


def small(**options: object) -> TaggerConfig:
    sizes = {"vocabulary_size": 12, "tags": 3, "characters": 8, "hidden_size": 5, "embedding_size": 4}
    return TaggerConfig(**{**sizes, "character_size": 3, "character_hidden": 2, **options})


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "mgu"])
@pytest.mark.parametrize("options", [{}, {"layers": 2, "residual": True}, {"bidirectional": False}, {"characters": 0}])
def test_a_padded_sentence_is_tagged_as_the_sentence_alone(cell: str, options: dict[str, object]):
    model = Tagger(small(cell=cell, **options)).eval()
    scores = model(*INPUTS)
    assert scores.shape == (4, 4, 3)
    for row, length in enumerate(LENGTHS.tolist()):
        if length:
            steps = (slice(row, row + 1), slice(length))
            alone = model(WORDS[steps], LENGTHS[row : row + 1], SPELLED[steps], LETTERS, LETTER_LENGTHS)
            torch.testing.assert_close(scores[steps], alone, atol=1e-6, rtol=1e-5)


def test_a_word_is_read_letter_by_letter_from_both_ends():
    model = Tagger(small()).eval()
    spelling = model.spelling
    _, (h, _) = spelling.recurrent(spelling.characters(LETTERS[1:]), lengths=LETTER_LENGTHS[1:])
    torch.testing.assert_close(spelling(LETTERS, LETTER_LENGTHS)[1:], torch.cat([h[0], h[1]], dim=-1))
    assert not spelling(LETTERS, LETTER_LENGTHS)[0].any()


def test_word_dropout_hides_words_and_leaves_their_letters():
    torch.manual_seed(0)
    model = Tagger(small(word_dropout=0.99))
    unknown = Tagger(small())
    unknown.load_state_dict(model.state_dict())
    hidden = torch.where(WORDS > 0, 1, 0)
    torch.testing.assert_close(model.train()(*INPUTS), unknown.eval()(hidden, *INPUTS[1:]))


@pytest.mark.parametrize("crf", [False, True])
def test_every_trained_number_gets_a_finite_gradient_and_no_tag_behind_an_end_counts(crf: bool):
    dropouts = {"dropout": 0.2, "recurrent_dropout": 0.2, "embedding_dropout": 0.2, "word_dropout": 0.1}
    model = Tagger(small(layers=2, crf=crf, **dropouts))
    tags = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    torch.manual_seed(0)
    loss = model.loss(model(*INPUTS), tags, LENGTHS)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    tags[0, 3], tags[2, 1], tags[3, 2] = 2, 1, 2
    torch.manual_seed(0)
    assert model.loss(model(*INPUTS), tags, LENGTHS) == loss


def test_the_loss_is_the_mean_over_words_and_unknown_tags_have_none():
    model = Tagger(small()).eval()
    scores, tags = model(*INPUTS), torch.tensor([[0, 1, 2, 0], [2, 7, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    right = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (1, 3), (3, 0)]
    wanted = -sum(scores[i, j].log_softmax(-1)[tags[i, j]] for i, j in right) / len(right)
    torch.testing.assert_close(model.loss(scores, tags, LENGTHS), wanted)
    with_crf = Tagger(small(crf=True)).eval()
    whole = torch.tensor([0, 3])
    torch.testing.assert_close(
        with_crf.loss(scores, tags, LENGTHS), with_crf.crf.loss(scores[whole], tags[whole], LENGTHS[whole]).sum() / 4
    )
    assert with_crf.loss(scores, torch.full_like(tags, 9), LENGTHS) == 0


def paths(crf: CRF, emissions: torch.Tensor, length: int) -> dict[tuple[int, ...], torch.Tensor]:
    """Return the score of every sequence of tags of a row, by the definition."""
    scores = {}
    for path in itertools.product(range(emissions.shape[-1]), repeat=length):
        total = crf.start[path[0]] + crf.end[path[-1]] + sum(emissions[t, tag] for t, tag in enumerate(path))
        scores[path] = total + sum(crf.transitions[a, b] for a, b in itertools.pairwise(path))
    return scores


def test_the_crf_is_what_adding_up_all_sequences_says():
    torch.manual_seed(0)
    crf = CRF(3).double()
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter, std=1.5)
    emissions, lengths = torch.randn(5, 4, 3, dtype=torch.float64), torch.tensor([4, 1, 3, 2, 0])
    tags = torch.randint(0, 3, (5, 4))
    losses, marginals = crf.loss(emissions, tags, lengths), crf.marginals(emissions, lengths)
    decoded = crf.decode(emissions, lengths)
    assert losses[4] == 0
    assert not marginals[4].any()
    for row, length in enumerate(lengths.tolist()[:4]):
        scores = paths(crf, emissions[row], length)
        total = torch.stack(list(scores.values())).logsumexp(0)
        own = tuple(tags[row, :length].tolist())
        torch.testing.assert_close(losses[row], total - scores[own])
        best = max(scores, key=scores.get)
        assert tuple(decoded[row].tolist()) == best + (0,) * (4 - length)
        for t in range(length):
            chance = [sum((s - total).exp() for path, s in scores.items() if path[t] == tag) for tag in range(3)]
            torch.testing.assert_close(marginals[row, t], torch.stack(chance))
        assert not marginals[row, length:].any()


def test_the_gradient_of_the_crf_is_right():
    crf, tags = CRF(3).double(), torch.tensor([[0, 1, 2], [2, 1, 0]])
    emissions = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda e, *_: crf.loss(e, tags, torch.tensor([3, 2])), (emissions, *crf.parameters())
    )


@pytest.mark.parametrize("crf", [False, True])
def test_a_model_learns_tags_that_hang_on_letters_and_neighbours(crf: bool):
    """The tag is 1 for words that end in letter 2 and stand behind a word that does."""
    torch.manual_seed(0)
    model = Tagger(small(tags=2, hidden_size=16, crf=crf, word_dropout=0.5))
    letters, letter_lengths = torch.tensor([[0, 0], [3, 2], [2, 3], [5, 2], [4, 6]]), torch.tensor([0, 2, 2, 2, 2])
    spelled, lengths = torch.randint(1, 5, (256, 6)), torch.randint(1, 7, (256,))
    spelled[torch.arange(6) >= lengths[:, None]] = 0
    ends = (spelled % 2 == 1).long()
    tags = torch.cat([torch.zeros(256, 1, dtype=torch.long), ends[:, 1:] * ends[:, :-1]], dim=1)
    inputs = (spelled + 1, lengths, spelled, letters, letter_lengths)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        loss = model.loss(model(*inputs), tags, lengths)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    found, probabilities = model.decode(model(*inputs), lengths)
    inside = torch.arange(6) < lengths[:, None]
    assert (found == tags)[inside].float().mean() > 0.98
    torch.testing.assert_close(probabilities.sum(-1)[inside], torch.ones(int(inside.sum())))


def test_the_configuration_survives_json_and_given_vectors_are_kept():
    config = small(crf=True, layers=2)
    assert TaggerConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
    matrix = torch.randn(12, 4)
    model = Tagger(small(freeze_embedding=True), matrix=matrix)
    torch.testing.assert_close(model.embedding.word.weight[1:], matrix[1:])
    assert model.parameter_count == sum(p.numel() for p in model.parameters()) - 48


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tags": 1}, "tags must be a whole number from 2 up, got 1"),
        ({"character_hidden": 0}, "character_hidden must be a whole number from 1 up, got 0"),
        ({"word_dropout": 1.0}, "word_dropout must be from 0 up to, not including, 1, got 1.0"),
        ({"residual": True}, "residual needs layers 2 or more, got 1"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        small(**options)
