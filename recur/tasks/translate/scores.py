"""What a translator is worth on some pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

from recur.models.seq2seq import EncoderDecoder
from recur.tasks.bleu import BleuTokens, bleu
from recur.tasks.decoding import GREEDY, Decoding
from recur.tasks.progress import Progress
from recur.tasks.translate.data import Encoder, Part
from recur.tasks.translate.model import Written, cross_entropy, perplexity, translate


@dataclass(frozen=True)
class TranslateScores:
    """What translations and probabilities are worth."""

    bleu: float
    """0..100, by sacrebleu."""
    interval: tuple[float, float]
    """95% interval of BLEU: the sentences drawn again, with replacement."""
    signature: str
    """How BLEU was computed."""
    chrf: float
    """0..100, by sacrebleu."""
    chrf_signature: str
    beam: int
    """Width of the beam of the translations; 1 for greedy ones."""
    loss: float
    """Mean cross entropy of a true subword, given those before, in nats."""
    perplexity: float
    """exp of it."""
    token_accuracy: float
    """Share of true subwords that were scored highest, given those before."""
    exact: float
    """Share of translations that are their reference to the letter."""
    unfinished: int
    """Translations that were cut off at the longest length."""
    rows: int
    notes: tuple[str, ...] = ()
    """What a person should know of the pairs."""


@dataclass(frozen=True)
class Translated:
    """Scores, and what they are the scores of."""

    scores: TranslateScores
    texts: list[str]
    written: list[Written]


def score(
    model: EncoderDecoder,
    encoder: Encoder,
    part: Part,
    search: Decoding = GREEDY,
    *,
    tokens: BleuTokens = "13a",
    batch_size: int = 64,
    progress: Progress | None = None,
    name: str = "translating",
    notes: Sequence[str] = (),
) -> Translated:
    """Translate the sources of a part and score the result; the arguments are those of `translate` and `bleu`."""
    written = translate(model, part.sources, search, batch_size=batch_size, progress=progress, name=name)
    texts = [encoder.text(one.ids) for one in written]
    references = [target for _, target in part.texts]
    lower = encoder.subwords.lower
    found = bleu(texts, references, lower=lower, tokens=tokens)
    entropy, accuracy = cross_entropy(model, part.sources, part.targets, batch_size)
    plain = [" ".join(text.lower().split() if lower else text.split()) for text in references]
    scores = TranslateScores(
        bleu=found.bleu,
        interval=found.interval,
        signature=found.signature,
        chrf=found.chrf,
        chrf_signature=found.chrf_signature,
        beam=search.beam,
        loss=entropy,
        perplexity=perplexity(entropy),
        token_accuracy=accuracy,
        exact=sum(a == b for a, b in zip(texts, plain, strict=True)) / len(texts),
        unfinished=sum(not one.finished for one in written),
        rows=len(texts),
        notes=tuple(notes),
    )
    return Translated(scores, texts, written)
