"""CIDEr-D: how like a caption is to what people wrote of the same picture, rare words counting more."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recur.errors import InputError

ORDERS = 4
SIGMA = 6.0

Gram = tuple[str, ...]
Weights = list[dict[Gram, float]]


def cider(captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> NDArray[np.float64]:
    r"""Return the CIDEr-D of each caption, 0..10, [n]; their mean is that of all.

    With g_n the counts of a text's n-grams, each times log(N / d), d of the N pictures having it in a reference:

    .. math::
        \text{CIDEr-D}_n(c, S) = \frac{10}{|S|} \sum_{s \in S} e^{-(l_c - l_s)^2 / 2 \sigma^2}
        \frac{\min(g_n(c), g_n(s)) \cdot g_n(s)}{\|g_n(c)\| \, \|g_n(s)\|}

    and the mean over n = 1..4, with sigma = 6. An order that a text is too short for counts 0, so that a caption of two
    words has 5 at most. An n-gram that is in a reference of every picture weighs nothing.

    Args:
        captions: of n pictures, in tokens; no stemming is done.
        references: one or more for each picture.

    Raises:
        InputError: not as many captions as references, none, or a picture without a reference.

    Source: Vedantam et al. 2015, arXiv:1411.5726, section 6.2; the counts are not divided by the length of the text, as
    in the authors' code (github.com/vrama91/cider).

    >>> cider([["a", "b"], ["c"]], [[["a", "b"]], [["d"]]]).round(3).tolist()
    [5.0, 0.0]
    """
    if len(captions) != len(references) or not references or not all(references):
        raise InputError(
            f"`captions` must be one for each of the {len(references)} pictures with references, got {len(captions)}"
        )
    found: Counter[Gram] = Counter()
    for several in references:
        found.update({gram for one in several for gram in _grams(one)})
    rarity = {gram: math.log(len(references) / count) for gram, count in found.items()}
    unseen = math.log(len(references))
    scores = []
    for caption, several in zip(captions, references, strict=True):
        own = _weights(caption, rarity, unseen)
        alike = [_alike(own, _weights(one, rarity, unseen), len(caption) - len(one)) for one in several]
        scores.append(10 * math.fsum(alike) / len(alike))
    return np.array(scores)


def _grams(tokens: Sequence[str]) -> Counter[Gram]:
    return Counter(tuple(tokens[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(tokens) - n + 1))


def _weights(tokens: Sequence[str], rarity: dict[Gram, float], unseen: float) -> Weights:
    """Return count times rarity of the n-grams of each order."""
    weights: Weights = [{} for _ in range(ORDERS)]
    for gram, count in _grams(tokens).items():
        weights[len(gram) - 1][gram] = count * rarity.get(gram, unseen)
    return weights


def _alike(caption: Weights, reference: Weights, longer: int) -> float:
    """Return the mean over the orders of the clipped cosines, less where the lengths differ."""
    total = 0.0
    for own, other in zip(caption, reference, strict=True):
        product = math.fsum(min(weight, other[gram]) * other[gram] for gram, weight in own.items() if gram in other)
        norms = math.hypot(*own.values()) * math.hypot(*other.values())
        total += product / norms if norms else 0.0
    return total / ORDERS * math.exp(-(longer**2) / (2 * SIGMA**2))
