"""What simple methods reach: the source as it is, and each word by a dictionary learned from the training part."""

import time
from collections.abc import Callable, Iterator

from recur.tasks.bleu import BleuTokens, bleu
from recur.tasks.job import Baseline
from recur.tasks.translate.data import Corpus, PairFile, Part
from recur.tasks.translate.dictionary import Dictionary

MOST_PAIRS = 100_000


def run_baselines(corpus: Corpus, test: Part, tokens: BleuTokens, say: Callable[[str], None]) -> list[Baseline]:
    """Score both on the validation and the test part; `say` is told the name of each before it starts."""
    lower = corpus.encoder.subwords.lower
    say("baseline copy")
    results = [_scored("copy", "the source as it is", str, corpus, test, tokens, time.perf_counter())]
    say("baseline dictionary")
    begun = time.perf_counter()
    dictionary = Dictionary(_some(corpus.train_file, len(corpus.train.sources)), lower)
    description = "each word by its most probable translation (IBM model 1), in the order of the source"
    return [*results, _scored("dictionary", description, dictionary, corpus, test, tokens, begun)]


def _some(file: PairFile, pairs: int) -> Iterator[tuple[str, str]]:
    """Yield pairs at even distances, so many that they fit into memory."""
    step = -(-pairs // MOST_PAIRS)
    return (pair for number, pair in enumerate(file) if number % step == 0)


def _scored(
    name: str,
    description: str,
    translate: Callable[[str], str],
    corpus: Corpus,
    test: Part,
    tokens: BleuTokens,
    begun: float,
) -> Baseline:
    reached = [
        bleu([translate(s) for s, _ in part.texts], [t for _, t in part.texts], lower=_lower(corpus), tokens=tokens)
        for part in (corpus.validation, test)
    ]
    seconds = time.perf_counter() - begun
    return Baseline(name, description, reached[0].bleu, reached[1].bleu, seconds, reached[1].interval)


def _lower(corpus: Corpus) -> bool:
    return corpus.encoder.subwords.lower
