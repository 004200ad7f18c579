"""The recurrent classifier."""

import dataclasses
import json

import pytest
import torch

from recur.errors import InputError
from recur.layers.pooling import POOLINGS
from recur.models import Classifier, ClassifierConfig

TOKENS = torch.tensor([[5, 9, 3, 0], [7, 7, 8, 4], [0, 0, 0, 0], [6, 0, 0, 0]])
LENGTHS = torch.tensor([3, 4, 0, 1])


def small(**options: object) -> ClassifierConfig:
    return ClassifierConfig(**{"vocabulary_size": 12, "classes": 3, "hidden_size": 5, "embedding_size": 4, **options})


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_padded_row_is_scored_as_the_row_alone(cell: str, bidirectional: bool, pooling: str) -> None:
    torch.manual_seed(0)
    config = small(cell=cell, bidirectional=bidirectional, pooling=pooling, layers=2, ngrams=2, ngram_buckets=20)
    model = Classifier(config).eval()
    logits = model(TOKENS, LENGTHS)
    assert logits.shape == (4, 3)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = model(TOKENS[row : row + 1, :length], LENGTHS[row : row + 1])
        torch.testing.assert_close(logits[row : row + 1], alone, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(logits[2], model.scores.bias)


def test_last_pooling_is_the_final_state_of_the_last_layer() -> None:
    model = Classifier(small(layers=2, cell="gru", bidirectional=True)).eval()
    _, state = model.recurrent(model.embedding(TOKENS), lengths=LENGTHS)
    expected = torch.cat([state[-2], state[-1]], dim=-1)
    torch.testing.assert_close(model.pooled(TOKENS, LENGTHS)[[0, 1, 3]], expected[[0, 1, 3]])


@pytest.mark.parametrize("embedding", ["trained", "one-hot"])
def test_every_trained_number_gets_a_finite_gradient(embedding: str) -> None:
    options = {"dropout": 0.2, "recurrent_dropout": 0.2, "embedding_dropout": 0.2, "word_dropout": 0.1}
    model = Classifier(small(layers=2, bidirectional=True, pooling="concat", embedding=embedding, **options))
    torch.manual_seed(0)
    model(TOKENS, LENGTHS).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_model_learns_which_word_came_first() -> None:
    torch.manual_seed(0)
    model = Classifier(small(classes=2, hidden_size=16, embedding_size=8))
    tokens = torch.randint(4, 12, (256, 6))
    tokens[:, 0] = torch.arange(256) % 2 + 2
    lengths = torch.randint(1, 7, (256,))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(tokens, lengths), tokens[:, 0] - 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


def test_a_config_survives_json_and_weights_survive_saving() -> None:
    config = small(cell="gru", embedding="trained", freeze_embedding=True, ngrams=2, ngram_buckets=9, pooling="max")
    assert ClassifierConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
    matrix = torch.randn(12, 4)
    model = Classifier(config, matrix=matrix).eval()
    again = Classifier(config).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(TOKENS, LENGTHS), model(TOKENS, LENGTHS))
    assert torch.equal(again.embedding.word.weight[1:], matrix[1:])


def test_parameters_are_counted_without_frozen_ones() -> None:
    recurrent = 3 * 5 * (4 + 5 + 2)
    assert Classifier(small(cell="gru")).parameter_count == 12 * 4 + recurrent + 3 * 6
    assert Classifier(small(cell="gru", freeze_embedding=True)).parameter_count == recurrent + 3 * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 1}, r"classes must be a whole number from 2 up, got 1"),
        ({"vocabulary_size": 0}, r"vocabulary_size must be a whole number from 2 up, got 0"),
        ({"hidden_size": 2.5}, r"hidden_size must be a whole number from 1 up, got 2.5"),
        ({"layers": True}, r"layers must be a whole number from 1 up, got True"),
        ({"ngram_buckets": -1}, r"ngram_buckets must be a whole number from 1 up, got -1"),
        ({"dropout": 1}, r"dropout must be from 0 up to, not including, 1, got 1"),
        ({"recurrent_dropout": float("nan")}, r"recurrent_dropout must be from 0 .* got nan"),
        ({"word_dropout": "0.1"}, r"word_dropout must be from 0 .* got '0.1'"),
        ({"pooling": "lasst"}, r"pooling must be one of last, mean, max, concat, got 'lasst', did you mean 'last'\?"),
        ({"embedding": "one_hot"}, r"embedding must be one of .* did you mean 'one-hot'\?"),
        ({"embedding": "one-hot", "ngrams": 2}, r"embedding 'one-hot' has no vectors to go with ngrams > 1"),
        ({"embedding": "one-hot", "freeze_embedding": True}, r"no vectors to go with freeze_embedding"),
    ],
)
def test_a_config_names_what_is_wrong(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(**options)


def test_an_unknown_cell_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"lstn.*did you mean 'lstm'"):
        Classifier(small(cell="lstn"))
