"""What simple methods reach on the same rows: the share of the largest class, linear models, bags of embeddings."""

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recur.data.sequences import Sequences
from recur.errors import InputError, MissingExtra, nearest
from recur.layers.embedding import hash_ngrams
from recur.tasks.classify.bags import Bags, train_bag
from recur.tasks.figures import wilson
from recur.tasks.job import Baseline

Scores = NDArray[np.float64]
MOST_ROWS, MOST_IDS = 250_000, 8_000_000
"""Texts and ids in a part of which there may be more: simple methods gain little from them, and take their time."""


class Part(NamedTuple):
    """One part of a data set."""

    sequences: Sequences
    """The texts' ids."""
    labels: NDArray[np.integer[Any]]
    """Their classes, [n] in 0..classes-1."""

    def sample(self, rows: int, ids: int) -> "Part":
        """Return about as many rows as neither of the two limits forbids, drawn by chance; all if they are that few."""
        n, total = len(self.labels), int(self.sequences.lengths.sum())
        most = min(rows, n * ids // max(1, total))
        if n <= most:
            return self
        index = np.sort(np.random.default_rng(0).choice(n, max(1, most), replace=False, shuffle=False))
        return Part(self.sequences.take(index), self.labels[index])


class Problem(NamedTuple):
    """What every baseline gets."""

    train: Part
    validation: Part
    test: Part
    vocabulary_size: int
    classes: int
    seed: int


def run_baselines(
    train: Part,
    validation: Part,
    test: Part,
    *,
    vocabulary_size: int,
    classes: int,
    seed: int = 0,
    names: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Baseline]:
    """Train the baselines and score them; settings are chosen on the validation part, the test part is scored once.

    Args:
        train: rows to learn from, at least one; rows may be empty texts.
        validation: rows to choose settings by; with none the first setting is taken.
        test: rows to report on; may be none.
        vocabulary_size: V, ids are 0..V-1.
        classes: number of classes.
        seed: the same seed gives the same numbers; torch's own generator is not touched.
        names: which of `BASELINES`, in this order; all by default.
        progress: called with a baseline's name before it starts.

    Raises:
        InputError: no training rows, or an unknown name.
        MissingExtra: scikit-learn is not installed and a linear baseline is asked for.

    >>> part = Part(Sequences.of([[2, 3], [4], []]), np.array([1, 1, 0]))
    >>> run_baselines(part, part, part, vocabulary_size=5, classes=2, names=["majority"])[0].test
    0.6666666666666666
    """
    if len(train.labels) == 0:
        raise InputError("train must have at least one row, got 0")
    problem = Problem(train, validation, test, vocabulary_size, classes, seed)
    results = []
    for name in BASELINES if names is None else names:
        if name not in BASELINES:
            hint = nearest(name, list(BASELINES))
            raise InputError(f"a baseline must be one of {', '.join(BASELINES)}, got {name!r}{hint}")
        if progress:
            progress(name)
        description, run = BASELINES[name]
        start = time.perf_counter()
        scores = run(problem)
        reached = [_accuracy(*pair) for pair in zip(scores, (validation.labels, test.labels), strict=True)]
        rows = len(test.labels)
        interval = None if reached[1] is None else wilson(round(reached[1] * rows), rows)
        results.append(Baseline(name, description, reached[0], reached[1], time.perf_counter() - start, interval))
    return results


def ngram_table_growth(sequences: Sequences, max_n: int = 5) -> list[tuple[int, int, int]]:
    """Return (n, distinct n-grams, distinct 1- to n-grams) for n = 1..max_n: the rows an exact lookup table needs."""
    words = sequences.values.astype(np.int64)
    row = np.repeat(np.arange(len(sequences)), sequences.lengths)
    width = int(words.max(initial=0)) + 1
    grams = np.zeros(len(words), np.int64)
    growth, total = [], 0
    for n in range(1, max_n + 1):
        count = max(len(words) - n + 1, 0)
        whole = row[:count] == row[n - 1 :]
        # grams[t] numbers the n - 1 words from t on; with the next word it numbers the n words
        keys = np.where(whole, grams[:count] * width + words[n - 1 :], -1)
        distinct, grams = np.unique(keys, return_inverse=True)
        found = len(distinct) - int(not whole.all())
        total += found
        growth.append((n, found, total))
    return growth


def _majority(problem: Problem) -> list[Scores]:
    counts = np.bincount(problem.train.labels, minlength=problem.classes).astype(np.float64)
    return [np.tile(counts, (len(part.labels), 1)) for part in (problem.validation, problem.test)]


def _bag_of_words(problem: Problem) -> list[Scores]:
    """Logistic regression on tf-idf; logarithmic counts, rows of length 1."""
    linear, _ = _sklearn()
    train, *others = (_word_counts(part.sequences, problem.vocabulary_size) for part in problem[:3])
    rows_with = np.bincount(train.indices, minlength=problem.vocabulary_size)
    idf = np.log((1 + train.shape[0]) / (1 + rows_with)) + 1
    for counts in (train, *others):
        counts.data = (1 + np.log(counts.data)) * idf[counts.indices]
        norms = np.sqrt(counts.multiply(counts).sum(axis=1)).A1
        counts.data /= np.repeat(norms, np.diff(counts.indptr))
    seen = np.unique(problem.train.labels)
    if len(seen) == 1:
        return _majority(problem)

    def candidates() -> Iterable[list[Scores]]:
        for strength in (4.0, 1.0, 16.0):
            model = linear.LogisticRegression(C=strength, max_iter=300)
            _quietly(model.fit, train, problem.train.labels)
            # of two classes the model has one row of weights
            weight, bias = model.coef_, model.intercept_
            tables = [x @ weight.T + bias for x in others]
            if len(seen) == 2:
                tables = [np.hstack([-table, table]) for table in tables]
            yield [_spread(table, seen, problem.classes) for table in tables]

    return _best(candidates(), problem.validation.labels)


def _nb_svm(problem: Problem) -> list[Scores]:
    """Wang and Manning 2012, section 2.3: a linear model on words and word pairs, scaled by their log-count ratio."""
    linear, sparse = _sklearn()
    size = problem.vocabulary_size
    pairs, offsets = _pairs(problem.train.sequences, size)
    known = np.unique(pairs)
    parts = []
    for part in problem[:3]:
        words = _word_counts(part.sequences, size)
        pairs, offsets = _pairs(part.sequences, size)
        column = np.searchsorted(known, pairs)
        hit = column < len(known)
        hit[hit] = known[column[hit]] == pairs[hit]
        offsets = np.append(0, np.cumsum(hit))[offsets]
        x = sparse.hstack([words, _counts(column[hit], offsets, len(known))], format="csr")
        x.data[:] = 1
        parts.append(x)
    train, *others = parts
    labels = problem.train.labels
    seen = np.unique(labels)
    if len(seen) == 1:
        return _majority(problem)

    def decisions(label: int, strength: float) -> tuple[NDArray[np.float64], list[Scores], list[Scores]]:
        inside = labels == label
        p, q = (1 + train[rows].sum(axis=0).A1 for rows in (inside, ~inside))
        ratio = np.log(p / p.sum()) - np.log(q / q.sum())
        scaled = train.copy()
        scaled.data *= ratio[scaled.indices]
        # the paper's squared hinge gives the same accuracy in four times the time
        model = linear.LogisticRegression(C=strength, solver="liblinear", dual=True, random_state=problem.seed)
        _quietly(model.fit, scaled, inside)
        weight = model.coef_[0]
        mean = np.abs(weight).mean()
        return model.intercept_, [x @ (ratio * weight) for x in others], [x @ ratio * mean for x in others]

    def candidates() -> Iterable[list[Scores]]:
        # many classes cost as many fits: then one strength only
        for strength in (0.1, 0.3, 1.0) if len(seen) <= 10 else (0.3,):
            # of two classes one decides for both
            fits = [decisions(label, strength) for label in (seen if len(seen) > 2 else seen[1:])]
            for beta in (1.0, 0.5, 0.25):
                scores = []
                for i in range(len(others)):
                    columns = [bias + beta * svm[i] + (1 - beta) * bayes[i] for bias, svm, bayes in fits]
                    table = np.stack(columns if len(seen) > 2 else [-columns[0], columns[0]], axis=1)
                    scores.append(_spread(table, seen, problem.classes))
                yield scores

    return _best(candidates(), problem.validation.labels)


def _embedding_bag(problem: Problem) -> list[Scores]:
    bags = [_bag(torch.from_numpy(part.sequences.values).long(), 1, part) for part in problem[:3]]
    return train_bag(bags, (problem.vocabulary_size, 0), problem.classes, problem.seed)


def _ngram_bag(problem: Problem) -> list[Scores]:
    bags = []
    # a small text needs no large table
    buckets = min(200_000, 2 * len(problem.train.sequences.values) + 1)
    for part in problem[:3]:
        words = torch.from_numpy(part.sequences.values).long()
        pairs = hash_ngrams(words, 2, buckets)
        starts = part.sequences.offsets[:-1][part.sequences.lengths > 0]
        pairs[torch.from_numpy(starts)] = 0
        pairs += (problem.vocabulary_size - 1) * (pairs > 0)
        bags.append(_bag(torch.stack([words, pairs], dim=1).flatten(), 2, part))
    return train_bag(bags, (problem.vocabulary_size, buckets), problem.classes, problem.seed)


def _bag(ids: Tensor, per_word: int, part: Part) -> Bags:
    return Bags(ids, torch.from_numpy(per_word * part.sequences.offsets), torch.from_numpy(part.labels).long())


def _pairs(sequences: Sequences, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a number for every two neighbouring words of a row, and where each row's numbers start."""
    words = sequences.values.astype(np.int64)
    row = np.repeat(np.arange(len(sequences)), sequences.lengths)
    pairs = words[:-1] * size + words[1:]
    counts = np.maximum(sequences.lengths - 1, 0)
    return pairs[row[:-1] == row[1:]], np.append(0, np.cumsum(counts))


def _word_counts(sequences: Sequences, size: int) -> Any:
    return _counts(sequences.values, sequences.offsets, size)


def _counts(columns: NDArray[Any], offsets: NDArray[np.int64], width: int) -> Any:
    """Return how often each column is in each row, a sparse matrix [n, width]."""
    _, sparse = _sklearn()
    entries = (np.ones(len(columns)), columns, offsets)
    # a copy, for sum_duplicates sorts in place and the ids are the caller's
    counts = sparse.csr_matrix(entries, shape=(len(offsets) - 1, width), copy=True)
    counts.sum_duplicates()
    return counts


def _spread(scores: Scores, seen: NDArray[np.int64], classes: int) -> Scores:
    """Return `scores` [n, seen] as [n, classes]; a class that training has not seen is never chosen."""
    spread = np.full((len(scores), classes), -np.inf)
    spread[:, seen] = scores
    return spread


def _best(candidates: Iterable[list[Scores]], labels: NDArray[np.integer[Any]]) -> list[Scores]:
    """Return the candidate with the highest validation accuracy, the first of equals."""
    return max(candidates, key=lambda scores: _accuracy(scores[0], labels) or 0.0)


def _accuracy(scores: Scores | NDArray[Any], labels: NDArray[np.integer[Any]]) -> float | None:
    return float((scores.argmax(axis=1) == labels).mean()) if len(labels) else None


def _quietly(fit: Callable[..., Any], *data: Any) -> None:
    with warnings.catch_warnings():
        # not having converged matters little here: the validation part judges
        warnings.filterwarnings("ignore", category=_convergence_warning())
        fit(*data)


def _convergence_warning() -> type[Warning]:
    from sklearn.exceptions import ConvergenceWarning

    warning: type[Warning] = ConvergenceWarning
    return warning


def _sklearn() -> tuple[Any, Any]:
    """Return sklearn.linear_model and scipy.sparse."""
    try:
        from scipy import sparse
        from sklearn import linear_model
    except ImportError as error:
        raise MissingExtra("scikit-learn", "train", "The linear baseline") from error
    return linear_model, sparse


BASELINES: dict[str, tuple[str, Callable[[Problem], list[Scores]]]] = {
    "majority": ("always the most frequent class of the training rows", _majority),
    "bag-of-words": ("logistic regression on tf-idf word counts; knows no order", _bag_of_words),
    "nb-svm": ("linear model on words and word pairs scaled by naive Bayes (Wang & Manning 2012)", _nb_svm),
    "embedding-bag": ("mean of trained word vectors; knows no order", _embedding_bag),
    "ngram-bag": ("mean of trained vectors of words and hashed word pairs (fastText)", _ngram_bag),
}
"""By name: a line for a reader, and the function that returns the scores [n, classes] of validation and test."""
