"""What a language model must beat: an n-gram model with modified Kneser-Ney smoothing, in arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Numbers = NDArray[np.float64]
# tokens that are looked up at a time
_CHUNK = 1 << 18


@dataclass(frozen=True)
class _Level:
    """The n-grams of one length, and what follows the ones that are a token shorter."""

    keys: Ids
    """Sorted; an n-gram's is the number of its first n - 1 tokens among those of their length, times the number of
    symbols, plus its last token. Its own number is its place."""
    discounted: Numbers
    """The (adjusted) count less the discount, by n-gram."""
    total: Numbers
    """The counts of all that follows a context, by the context's number; 0 if nothing does."""
    left: Numbers
    """What the discounts took of them, as a share, by context."""


class KneserNey:
    """An interpolated n-gram model with modified Kneser-Ney smoothing, over one text without sentence borders.

    Chen and Goodman 1998, An empirical study of smoothing techniques for language modeling, section 3, eq. 4.38 - 4.40;
    the counts of the shorter n-grams are adjusted as there, and as in KenLM (Heafield et al. 2013, section 3): of how
    many different tokens each stands behind. The shortest level is interpolated with 1 / size. The text's start is
    padded, so that its first tokens stand behind something as well.

    Args:
        tokens: ids of the text, in 0..size-1, [N].
        order: n, the longest n-gram.
        size: how many tokens there can be.

    >>> model = KneserNey(np.array([0, 1, 0, 1, 2]), order=2, size=3)
    >>> float(sum(np.exp(-model.losses(np.array([0, word]))[1]) for word in range(3)))
    1.0
    """

    def __init__(self, tokens: NDArray[np.integer], order: int, size: int) -> None:
        self.order, self.size = order, size
        self._symbols = size + 1  # and what the start is padded with
        text = np.concatenate([np.full(order - 1, size), np.asarray(tokens)]).astype(np.int64)
        # of each place the number of the n-gram that ends there, among those of its length; -1 where the text begins
        numbers, keys, firsts, counts = [text], [np.arange(self._symbols)], [], []
        for length in range(2, order + 1):
            key = numbers[-1][:-1] * self._symbols + text[1:]
            if length > 2:
                key[: length - 2] = -1
            found, first, inverse = np.unique(key[length - 2 :], return_index=True, return_inverse=True)
            keys.append(found)
            firsts.append(first + length - 1)
            numbers.append(np.concatenate([np.full(length - 1, -1), inverse.reshape(-1)]))
        for length in range(1, order + 1):
            own = numbers[length - 1]
            # an n-gram's places in the text, or one for each different token before it
            places = np.arange(order - 1, len(text)) if length == order else firsts[length - 1]
            places = places[places >= order - 1]
            counts.append(np.bincount(own[places], minlength=len(keys[length - 1])).astype(np.float64))
        self._levels = [self._level(keys[n], counts[n], len(keys[n - 1]) if n else 1, n == 0) for n in range(order)]

    def _level(self, keys: Ids, counts: Numbers, contexts: int, shortest: bool) -> _Level:
        discounts = _discounts(counts)
        taken = discounts[np.minimum(counts, 3).astype(np.int64)]
        context = np.zeros(len(keys), dtype=np.int64) if shortest else keys // self._symbols
        total: Numbers = np.bincount(context, counts, contexts).astype(np.float64)
        left: Numbers = np.bincount(context, taken, contexts) / np.maximum(total, 1)
        return _Level(keys, counts - taken, total, left)

    def losses(self, tokens: NDArray[np.integer]) -> Numbers:
        """Return -log of the probability of each token of a text behind those before it, in nats, [N]."""
        result = np.empty(len(tokens))
        for start in range(0, len(tokens), _CHUNK):
            behind = max(0, start - self.order + 1)
            part = np.asarray(tokens[behind : start + _CHUNK]).astype(np.int64)
            result[start : start + _CHUNK] = -np.log(self._probabilities(part))[start - behind :]
        return result

    def _probabilities(self, text: Ids) -> Numbers:
        first = self._levels[0]
        probability: Numbers = first.discounted[text] / first.total[0] + first.left[0] / self.size
        number = text
        for level in self._levels[1:]:
            # the number of the context that each token stands behind
            context = np.concatenate([[-1], number[:-1]])
            known = context >= 0
            key = np.where(known, context * self._symbols + text, -1)
            place = np.minimum(np.searchsorted(level.keys, key), len(level.keys) - 1)
            number = np.where(level.keys[place] == key, place, -1)
            total = np.where(known, level.total[context], 0)
            count = np.where(number >= 0, level.discounted[number], 0)
            mixed = count / np.maximum(total, 1) + level.left[context] * probability
            probability = np.where(total > 0, mixed, probability)
        return probability


def _discounts(counts: Numbers) -> Numbers:
    """Return what is taken off a count of 0, 1, 2, and 3 or more."""
    n1, n2, n3, n4 = (float((counts == c).sum()) for c in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return np.array([0, 0.5, 1, 1.5])  # of a text too small to say, as KenLM does
    y = n1 / (n1 + 2 * n2)
    found = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return found if (found[1:] > 0).all() else np.array([0, 0.5, 1, 1.5])
