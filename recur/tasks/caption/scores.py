"""What captions and frame labels are worth."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recur.models.captioner import Captioner, FrameLabeller
from recur.models.decoding import Hypothesis
from recur.tasks import figures
from recur.tasks.bleu import BleuTokens, bleu
from recur.tasks.caption.cider import cider
from recur.tasks.caption.data import Captions, Part
from recur.tasks.caption.model import Shown, captions, cross_entropy, label_probabilities, silent
from recur.tasks.decoding import GREEDY, Decoding
from recur.tasks.figures import wilson

RESAMPLES = 1000


@dataclass(frozen=True)
class Texts:
    """What captions beside their references are worth."""

    exact: float
    """Share of captions that are one of their references to the letter, after tokenising."""
    exact_interval: tuple[float, float]
    """95% interval of it (Wilson)."""
    cider: float
    """Mean CIDEr-D, 0..10, with the document frequencies of these references."""
    cider_interval: tuple[float, float]
    """95% interval of it: the pictures drawn again, with replacement."""
    bleu: float
    """BLEU-4, 0..100, by sacrebleu."""
    bleu_interval: tuple[float, float]
    """95% interval of it, likewise."""
    signature: str
    """How BLEU was computed."""


@dataclass(frozen=True, kw_only=True)
class CaptionScores(Texts):
    """What a network's captions and probabilities are worth."""

    interval: tuple[float, float]
    """That of the figure that networks are compared by."""
    references: float
    """Captions of a picture, on average."""
    beam: int
    """Width of the beam of the captions; 1 for greedy ones."""
    loss: float
    """Mean cross entropy of a true word, given those before, in nats."""
    word_accuracy: float
    """Share of true words that were scored highest, given those before."""
    unfinished: int
    """Captions that were cut off at the longest length."""
    rows: int
    """Pictures."""
    notes: tuple[str, ...] = ()
    """What a person should know of the pictures."""


@dataclass(frozen=True)
class Captioned:
    """Scores, and what they are the scores of."""

    scores: CaptionScores
    texts: list[str]
    written: list[Hypothesis]


def texts_scores(encoder: Captions, found: Sequence[str], references: Sequence[Sequence[str]]) -> Texts:
    """Score captions by the captions that their pictures have; both as texts, and tokenised alike here."""
    tokens = [encoder.tokenizer(text) for text in found]
    true = [[encoder.tokenizer(text) for text in several] for several in references]
    right = sum(own in several for own, several in zip(tokens, true, strict=True))
    each = cider(tokens, true)
    # tokens stand apart already; where they are characters, sacrebleu must cut them itself
    kind: BleuTokens = "none" if encoder.tokenizer.kind == "words" else "char"
    joined = [encoder.joined(own) for own in tokens], [[encoder.joined(one) for one in several] for several in true]
    score = bleu(*joined, tokens=kind)
    return Texts(
        exact=right / len(tokens),
        exact_interval=wilson(right, len(tokens)),
        cider=float(each.mean()),
        cider_interval=resampled(each),
        bleu=score.bleu,
        bleu_interval=score.interval,
        signature=score.signature,
    )


def figure_name(references: float) -> str:
    """Return what captions are compared by: exact ones where each picture has one, else CIDEr."""
    return "exact" if references == 1 else "cider"


def score_captions(
    model: Captioner,
    encoder: Captions,
    part: Part,
    most: int,
    search: Decoding = GREEDY,
    *,
    batch_size: int = 64,
    shown: Shown = silent,
    notes: Sequence[str] = (),
) -> Captioned:
    """Write captions of a part and score them; the arguments are those of `captions`."""
    written = captions(model, part.clips, most, search, batch_size=batch_size, shown=shown)
    texts = [encoder.joined(encoder.tokens(one.tokens)) for one in written]
    found = texts_scores(encoder, texts, [picture.texts for picture in part.pictures])
    loss, accuracy = cross_entropy(model, part.clips, part.targets, part.owners, batch_size)
    references = len(part.targets) / len(part.pictures)
    scores = CaptionScores(
        **dataclasses.asdict(found),
        interval=getattr(found, f"{figure_name(references)}_interval"),
        references=references,
        beam=search.beam,
        loss=loss,
        word_accuracy=accuracy,
        unfinished=sum(not one.finished for one in written),
        rows=len(texts),
        notes=tuple(notes),
    )
    return Captioned(scores, texts, written)


@dataclass(frozen=True)
class FrameScores(figures.Scores):
    """What labels of frames are worth; `rows` are frames, and the interval is that of clips drawn again."""

    clips: int = 0
    whole: float = 0.0
    """Share of clips whose every frame is right."""


def score_labels(probabilities: NDArray[np.float32], part: Part, notes: Sequence[str] = ()) -> FrameScores:
    """Score the probabilities of every frame [N, C]."""
    truth, starts = part.targets.values.astype(np.int64), part.targets.offsets[:-1]
    right = np.add.reduceat((probabilities.argmax(1) == truth).astype(np.float64), starts)
    frames = part.targets.lengths.astype(np.float64)
    found = dataclasses.asdict(figures.score(probabilities, truth))
    found |= {"interval": resampled(right, frames), "notes": tuple(notes)}
    return FrameScores(**found, clips=len(frames), whole=float((right == frames).mean()))


def label_scores(
    model: FrameLabeller, part: Part, *, batch_size: int = 64, shown: Shown = silent
) -> tuple[NDArray[np.float32], FrameScores]:
    """Return the probabilities of a part's frames, and their scores."""
    found = label_probabilities(model, part.clips, batch_size=batch_size, shown=shown)
    return found, score_labels(found, part)


def resampled(values: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> tuple[float, float]:
    """Return the 95% interval of sum(values) / sum(weights), or of the mean: the rows drawn again, with replacement."""
    rows, generator = len(values), np.random.default_rng(0)
    counted = np.ones(rows) if weights is None else weights
    reached = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(0, rows, rows)
        reached.append(values[drawn].sum() / counted[drawn].sum())
    low, high = np.quantile(reached, (0.025, 0.975)).tolist()
    return low, high
