"""Who can tell 我爱你 (I love you) from 你爱我 (you love me): the same words in another order."""

import numpy as np
import torch

from recur.data.sequences import Sequences
from recur.layers.embedding import TokenEmbedding
from recur.layers.pooling import pool
from recur.models import Classifier, ClassifierConfig
from recur.tasks.classify.baselines import ngram_table_growth

CODES = {"我": 2, "爱": 3, "你": 4}
TEXTS = torch.tensor([[CODES[sign] for sign in text] for text in ("我爱你", "你爱我")])
LENGTHS = torch.tensor([3, 3])


def test_the_mean_of_word_vectors_is_blind_to_order() -> None:
    torch.manual_seed(0)
    one, other = pool(TokenEmbedding(5, 8)(TEXTS), LENGTHS, "mean")
    torch.testing.assert_close(one, other)


def test_word_pairs_see_local_order() -> None:
    torch.manual_seed(0)
    embedding = TokenEmbedding(5, 8, ngrams=2, ngram_buckets=100)
    torch.nn.init.normal_(embedding.ngram.weight)
    one, other = pool(embedding(TEXTS), LENGTHS, "mean")
    assert (one - other).abs().max() > 0.1


def test_recurrent_classifiers_see_order() -> None:
    for cell in ("rnn", "lstm", "gru"):
        torch.manual_seed(0)
        one, other = Classifier(ClassifierConfig(5, 2, cell=cell))(TEXTS, LENGTHS)
        assert (one - other).abs().max() > 1e-4


def test_the_state_at_a_word_holds_the_words_before_it() -> None:
    # "I love deep learning": the state at "love" differs if another word stood before it
    network = Classifier(ClassifierConfig(6, 2, cell="rnn"))
    states = network.recurrent(network.embedding(torch.tensor([[2, 3, 4, 5], [4, 3, 4, 5]])))[0]
    assert (states[0, 1] - states[1, 1]).abs().max() > 1e-3


def test_a_table_of_all_orders_needs_all_ngrams() -> None:
    # n different words have n + (n - 1) + ... + 1 n-grams
    assert ngram_table_growth(Sequences.of([[2, 3, 4, 5]]), 5) == [
        (1, 4, 4),
        (2, 3, 7),
        (3, 2, 9),
        (4, 1, 10),
        (5, 0, 10),
    ]


def test_ngrams_are_counted_once_and_within_rows() -> None:
    rows = Sequences.of([[2, 3], [], [2, 3, 2], [9]])
    assert ngram_table_growth(rows, 3) == [(1, 3, 3), (2, 2, 5), (3, 1, 6)]
    assert ngram_table_growth(Sequences.of([[], []]), 2) == [(1, 0, 0), (2, 0, 0)]
    random = np.random.default_rng(0)
    texts = [random.integers(2, 6, length).tolist() for length in random.integers(0, 12, 40)]
    for n, distinct, _ in ngram_table_growth(Sequences.of(texts), 4):
        assert distinct == len({tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)})
