"""Word ids to vectors: tables, one-hot, n-grams, dropouts."""

import pytest
import torch
from torch import Tensor

from recur.errors import InputError
from recur.layers.embedding import TokenEmbedding, hash_ngrams

IDS = torch.tensor([[4, 9, 2, 0], [9, 0, 0, 0]])


def with_ngrams(**options: object) -> TokenEmbedding:
    embedding = TokenEmbedding(10, 3, ngrams=3, ngram_buckets=50, **options)
    torch.nn.init.normal_(embedding.ngram.weight)
    embedding.ngram.weight.data[0] = 0
    return embedding


def test_a_word_gets_its_row_and_padding_gets_zeros() -> None:
    embedding = TokenEmbedding(10, 3)
    out = embedding(IDS)
    assert torch.equal(out[0, 1], embedding.word.weight[9])
    assert not out[0, 3].any()
    assert not out[1, 1:].any()
    out.sum().backward()
    assert not embedding.word.weight.grad[0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_hot_has_no_numbers_of_its_own(dtype: torch.dtype) -> None:
    embedding = TokenEmbedding(10, kind="one-hot").to(dtype)
    out = embedding(IDS)
    assert out.dtype == dtype
    assert out.shape == (2, 4, 10)
    assert torch.equal(out.argmax(-1) * out.sum(-1), IDS.to(dtype))
    assert out.sum() == 4
    assert not embedding.state_dict()
    TokenEmbedding(50_000_000, kind="one-hot")


@pytest.mark.parametrize("frozen", [True, False])
def test_a_given_matrix_is_copied_and_frozen_on_request(frozen: bool) -> None:
    matrix = torch.randn(10, 3)
    embedding = TokenEmbedding(10, matrix=matrix, frozen=frozen, ngrams=2, ngram_buckets=5)
    assert embedding.embedding_size == 3
    assert torch.equal(embedding(IDS)[0, :3], matrix[[4, 9, 2]])
    assert matrix[0].any()
    assert embedding.word.weight.requires_grad is not frozen
    assert embedding.ngram.weight.requires_grad


def test_an_ngram_hash_is_the_same_wherever_it_stands() -> None:
    ids = torch.tensor([[3, 8, 3, 8], [0, 3, 8, 0], [8, 3, 0, 8]])
    pairs = hash_ngrams(ids, 2, 1000)
    assert pairs[0, 1] == pairs[0, 3] == pairs[1, 2] > 0
    assert pairs[0, 2] == pairs[2, 1] > 0
    assert pairs[0, 1] != pairs[0, 2]


def test_an_ngram_never_reaches_over_the_row_start_or_padding() -> None:
    ids = torch.tensor([[3, 8, 3, 8], [0, 3, 8, 0], [8, 3, 0, 8], [5, 0, 0, 0], [0, 0, 0, 0]])
    whole = [[0, 1, 1, 1], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert (hash_ngrams(ids, 2, 1000) > 0).int().tolist() == whole
    assert (hash_ngrams(ids, 3, 1000) > 0).int().tolist() == [[0, 0, 1, 1]] + [[0] * 4] * 4
    assert not hash_ngrams(ids, 5, 1000).any()
    assert hash_ngrams(torch.zeros(2, 0, dtype=torch.long), 2, 10).shape == (2, 0)


def test_hashes_fill_all_buckets_evenly() -> None:
    first, second = torch.meshgrid(torch.arange(1, 301), torch.arange(1, 301), indexing="ij")
    pairs = hash_ngrams(torch.stack([first, second], dim=-1).view(-1, 2), 2, 1000)[:, 1]
    counts = torch.bincount(pairs, minlength=1001)
    assert counts[0] == 0
    assert counts[1:].min() > 40
    assert counts.max() < 180
    large = torch.full((1, 5), 2**31 - 2)
    assert ((hash_ngrams(large, 5, 7) > 0) & (hash_ngrams(large, 5, 7) <= 7))[0, 4]


def test_ngram_vectors_are_added_to_the_word_where_they_end() -> None:
    embedding = with_ngrams()
    out = embedding(IDS)
    pair, triple = hash_ngrams(IDS, 2, 50)[0, 2], hash_ngrams(IDS, 3, 50)[0, 2]
    torch.testing.assert_close(
        out[0, 2], embedding.word.weight[2] + embedding.ngram.weight[pair] + embedding.ngram.weight[triple]
    )
    assert torch.equal(out[0, 0], embedding.word.weight[4])
    assert not out[0, 3].any()
    fresh = TokenEmbedding(10, 3, ngrams=3, ngram_buckets=50)
    assert torch.equal(fresh(IDS), fresh.word(IDS))


def test_a_dropped_word_takes_its_ngrams_along() -> None:
    embedding = with_ngrams(word_dropout=0.5)
    torch.manual_seed(0)
    out = embedding(torch.full((1, 4000), 7))[0]
    gone = ~out.any(-1)
    assert 0.45 < gone.float().mean() < 0.55
    # a word whose predecessor is gone has its own vector alone
    alone = ~gone[1:] & gone[:-1]
    assert torch.equal(out[1:][alone], embedding.word.weight[7].expand(int(alone.sum()), 3))
    assert torch.equal(embedding.eval()(IDS), embedding(IDS))


def test_feature_dropout_is_the_same_at_every_step() -> None:
    torch.manual_seed(0)
    embedding = TokenEmbedding(10, 400, dropout=0.25)
    ids = torch.randint(1, 10, (3, 20))
    ratio = embedding(ids) / embedding.word(ids)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert not torch.equal(ratio[0], ratio[1])
    kept = ratio[:, 0] > 0
    assert 0.65 < kept.float().mean() < 0.85
    torch.testing.assert_close(ratio[:, 0][kept], torch.full((int(kept.sum()),), 4 / 3))
    assert torch.equal(embedding.eval()(ids), embedding.word(ids))


def test_sparse_gradients_equal_dense_ones() -> None:
    weights: list[Tensor] = []
    for sparse in (False, True):
        torch.manual_seed(1)
        embedding = with_ngrams(sparse=sparse)
        embedding(IDS).square().sum().backward()
        assert embedding.ngram.weight.grad.is_sparse is sparse
        weights += [table.weight.grad.to_dense() for table in (embedding.word, embedding.ngram)]
    torch.testing.assert_close(weights[0], weights[2])
    torch.testing.assert_close(weights[1], weights[3])
    torch.optim.SparseAdam(embedding.parameters()).step()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "onehot"}, r"embedding must be one of trained, one-hot, got 'onehot', did you mean 'one-hot'\?"),
        ({"embedding_size": None}, r"embedding_size must be at least 1, got None"),
        ({"word_dropout": 1.0}, r"word_dropout must be from 0 up to, not including, 1, got 1.0"),
        ({"dropout": -0.1}, r"embedding dropout must be from 0 .* got -0.1"),
        ({"ngrams": 0}, r"ngrams and ngram_buckets must be at least 1, got 0 and 200000"),
        ({"kind": "one-hot", "ngrams": 2}, r"'one-hot' has no vectors to go with ngrams > 1; choose"),
        ({"kind": "one-hot", "matrix": torch.zeros(10, 3)}, r"'one-hot' has no vectors to go with a matrix"),
        ({"matrix": torch.zeros(9, 3)}, r"matrix must be \[V, D\] = \[10, 3\], got \[9, 3\]"),
        ({"matrix": torch.zeros(10, 4)}, r"matrix must be \[V, D\] = \[10, 3\], got \[10, 4\]"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TokenEmbedding(10, **{"embedding_size": 3, **arguments})


@pytest.mark.parametrize("kind", ["trained", "one-hot"])
def test_an_id_beyond_the_vocabulary_is_named(kind: str) -> None:
    embedding = TokenEmbedding(10, 3, kind=kind)
    with pytest.raises(InputError, match=r"ids must be in 0..9, got 3..10"):
        embedding(torch.tensor([[3, 10]]))
