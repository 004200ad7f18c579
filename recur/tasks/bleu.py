"""What written texts are worth beside references: BLEU and chrF by sacrebleu, with their signatures."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recur.errors import InputError, MissingExtra

BleuTokens = Literal["13a", "intl", "zh", "char", "none"]
RESAMPLES = 1000


@dataclass(frozen=True)
class Bleu:
    """BLEU and chrF of many texts together."""

    bleu: float
    """0..100."""
    interval: tuple[float, float]
    """95% interval of BLEU: the sentences drawn again, with replacement (Koehn 2004)."""
    chrf: float
    """0..100."""
    signature: str
    """How BLEU was computed, for others to repeat it."""
    chrf_signature: str


References = Sequence[str] | Sequence[Sequence[str]]
"""One for each text, or several."""


def bleu(
    translations: Sequence[str], references: References, *, lower: bool = False, tokens: BleuTokens = "13a"
) -> Bleu:
    """Score translations, or other texts, by one reference each or several.

    Args:
        translations: texts, not tokenised, n of them, n at least 1.
        references: n texts, or n lists of one text or more.
        lower: take capital letters as small ones.
        tokens: sacrebleu's tokeniser of both: "13a" for languages with blanks between words, "zh" and "char" for
            those without.

    Raises:
        InputError: not as many translations as references, or none.
        MissingExtra: sacrebleu is not installed.

    Source: Papineni et al. 2002; Post 2018, arXiv:1804.08771; chrF: Popovic 2015.

    >>> bleu(["the cat sat on the mat"], ["the cat sat on the mat"]).signature[:15]
    'nrefs:1|case:mi'
    """
    if len(translations) != len(references) or not references:
        raise InputError(
            f"`translations` must be one for each of the {len(references)} references, got {len(translations)}"
        )
    metrics = sacrebleu_metrics()
    # forced: texts whose marks stand apart, as a dictionary writes them, are meant so
    words, characters = metrics.BLEU(lowercase=lower, tokenize=tokens, force=True), metrics.CHRF(lowercase=lower)
    lists = _lists(references)
    # sacrebleu takes first, second ... references of all texts, None where a text has no more
    streams = [list(stream) for stream in zip_longest(*lists)]
    score = words.corpus_score(list(translations), streams)
    chrf = characters.corpus_score(list(translations), streams)
    return Bleu(
        bleu=float(score.score),
        interval=_interval(words, _statistics(words, translations, lists)),
        chrf=float(chrf.score),
        signature=str(words.get_signature()),
        chrf_signature=str(characters.get_signature()),
    )


def sentence_bleu(
    translations: Sequence[str], references: References, *, lower: bool = False, tokens: BleuTokens = "13a"
) -> NDArray[np.float64]:
    """Return the BLEU of each translation alone [n], 0..100: of orders up to its length, smoothed."""
    metric = sacrebleu_metrics().BLEU(lowercase=lower, tokenize=tokens, effective_order=True)
    scores = [metric.sentence_score(t, r).score for t, r in zip(translations, _lists(references), strict=True)]
    return np.array(scores, dtype=np.float64)


def _lists(references: References) -> list[list[str]]:
    return [[one] if isinstance(one, str) else list(one) for one in references]


def _statistics(metric: Any, translations: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Return what BLEU is a function of, for each sentence: matches and n-grams of 4 orders, both lengths, [n, 10]."""
    alone = type(metric)(lowercase=metric.lowercase, tokenize=metric.tokenizer.signature(), effective_order=True)
    scores = (alone.sentence_score(t, r) for t, r in zip(translations, references, strict=True))
    return np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores], dtype=np.int64)


def _interval(metric: Any, statistics: NDArray[np.int64]) -> tuple[float, float]:
    rows = len(statistics)
    generator = np.random.default_rng(0)
    reached = []
    for _ in range(RESAMPLES):
        sums = statistics[generator.integers(0, rows, rows)].sum(axis=0).tolist()
        score = metric.compute_bleu(sums[:4], sums[4:8], sums[8], sums[9], smooth_method=metric.smooth_method)
        reached.append(score.score)
    low, high = np.quantile(reached, (0.025, 0.975)).tolist()
    return low, high


def sacrebleu_metrics() -> Any:
    """Return sacrebleu's module of metrics.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise MissingExtra("sacrebleu", "text", "BLEU") from error
    return metrics
