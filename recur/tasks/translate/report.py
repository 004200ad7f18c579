"""What the report of a translator draws: attention maps, scores by length, beam beside greedy, translations."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from recur.data.subwords import END, START
from recur.report import Bar, BarChart, Block, HeatMap, Item, Items, Section, Table
from recur.tasks.bleu import bleu, sentence_bleu
from recur.tasks.job import Result, TaskReport
from recur.tasks.translate.data import Corpus, Part
from recur.tasks.translate.scores import Translated

SHOWN = 10
LENGTHS = 5
LONGEST_MAP = 40

ATTENTION = (
    "How much of each source subword, below, the network looks at when it writes each subword of its translation, at "
    "the left: the weights of a row sum to 1. Sentences from among the best to the worst translated."
)
BY_LENGTH = (
    "The test sentences in parts of about the same number, by the subwords of their sources; the whiskers are 95% "
    "intervals."
)


class Drawn(NamedTuple):
    """What the report draws besides the scores."""

    test: Part


class Shown(NamedTuple):
    """What one network makes of the test part: at every step the best subword, and with a beam."""

    greedy: Translated
    beam: Translated | None


def report(result: Result[Corpus]) -> TaskReport:
    """Say what the best network reaches, and show what it looks at and writes."""
    best, scores = result.best, result.best.test
    references = [target for _, target in result.extra.test.texts]
    ranks = _ranked(result, references)
    case = "lower-cased " if result.data.encoder.subwords.lower else ""
    sections = [
        Section("Greedy or beam", "The same network, searched in two ways.", [_search(result)]),
        Section("Length", BY_LENGTH, [_by_length(result, references)]),
        Section(
            "Translations", "The best and the worst of the test part, by BLEU of the sentence.", _samples(result, ranks)
        ),
    ]
    if best.trained.model.config.attention != "none":
        sections.insert(0, Section("Attention", ATTENTION, list(_maps(result, ranks))))
    return TaskReport(
        lead=f"{best.trained.name} translates {result.rows['test']:,} test sentences with a {case}BLEU of "
        f"{scores.bleu:.2f} ({scores.signature}).",
        sections=sections,
        data=[_data_table(result)],
        command=["recur", "predict", str(result.options.folder), "a text", "--beam", "5"],
        tried_on="On texts of your own:",
    )


def _ranked(result: Result[Corpus], references: list[str]) -> list[tuple[int, float]]:
    """Return the rows of the test part that can be shown, with their BLEU, the worst first."""
    encoder, texts = result.data.encoder, result.best.shown.greedy.texts
    scores = sentence_bleu(texts, references, lower=encoder.subwords.lower, tokens=result.options.bleu_tokens)
    rows = [row for row in range(len(texts)) if result.extra.test.texts[row][0].strip()]
    # of equal scores the longer sentence says more of the worst and of the best
    lengths = result.extra.test.sources.lengths
    worst_first = sorted(rows, key=lambda row: (scores[row], -lengths[row] if scores[row] < 50 else lengths[row]))
    return [(row, float(scores[row])) for row in worst_first]


def _maps(result: Result[Corpus], ranks: list[tuple[int, float]]) -> Iterator[Block]:
    lengths = result.extra.test.sources.lengths
    short = [(row, score) for row, score in ranks if 3 <= lengths[row] <= LONGEST_MAP]
    for share, word in ((1.0, "among the best"), (0.75, "upper quartile"), (0.5, "median"), (0.0, "among the worst")):
        if short:
            row, score = short[round(share * (len(short) - 1))]
            yield _map(result, row, f"BLEU {score:.1f}, {word}")


@torch.no_grad()
def _map(result: Result[Corpus], row: int, title: str) -> HeatMap:
    model, encoder = result.best.trained.model, result.data.encoder
    source = torch.from_numpy(result.extra.test.sources[row].astype(np.int64))[None]
    ids = [*result.best.shown.greedy.written[row].ids, END][:LONGEST_MAP]
    target = torch.tensor([[START, *ids[:-1]]])
    training = model.training
    model.eval()
    weights = model.attention_weights(source, torch.tensor([source.shape[1]]), target, torch.tensor([target.shape[1]]))
    model.train(training)
    values: NDArray[np.float64] = weights[0].double().numpy()
    names = [[encoder.subwords.tokens[i] for i in part] for part in (source[0].tolist(), ids)]
    return HeatMap(
        title, "source", "translation", "weight", values, limits=(0.0, 1.0), x_names=names[0], y_names=names[1]
    )


def _search(result: Result[Corpus]) -> Table:
    shown = result.best.shown
    rows: list[list[str | float | int]] = []
    for name, found in (("greedy", shown.greedy), (f"beam {result.options.beam}", shown.beam)):
        if found is not None:
            scores = found.scores
            low, high = scores.interval
            words = np.mean([len(text.split()) for text in found.texts])
            rows.append(
                [
                    name,
                    f"{scores.bleu:.2f}",
                    f"{low:.2f} - {high:.2f}",
                    f"{scores.chrf:.2f}",
                    f"{scores.exact:.1%}",
                    f"{words:.1f}",
                    scores.unfinished,
                ]
            )
    columns = ["", "BLEU", "95% interval", "chrF", "exact", "words", "cut off"]
    return Table(
        "Search", columns, rows, note=f"BLEU {shown.greedy.scores.signature}; chrF {shown.greedy.scores.chrf_signature}"
    )


def _by_length(result: Result[Corpus], references: list[str]) -> BarChart:
    lengths, texts = result.extra.test.sources.lengths, result.best.shown.greedy.texts
    parts = np.array_split(np.argsort(lengths, kind="stable"), LENGTHS)
    bars = []
    for part in parts:
        # BLEU is of runs of four words
        if max((len(references[i].split()) for i in part), default=0) < 4 and not _unspaced(result):
            continue
        found = bleu(
            [texts[i] for i in part],
            [references[i] for i in part],
            lower=result.data.encoder.subwords.lower,
            tokens=result.options.bleu_tokens,
        )
        least, most = lengths[part].min() - 1, lengths[part].max() - 1
        name = f"{least} to {most} subwords" if most > least else f"{least} subwords"
        bars.append(Bar(name, found.bleu, *found.interval, own=True, note=f"{len(part)} sentences"))
    return BarChart("BLEU by length of the source", bars, as_percent=False)


def _unspaced(result: Result[Corpus]) -> bool:
    return result.options.bleu_tokens in ("zh", "char")


def _samples(result: Result[Corpus], ranks: list[tuple[int, float]]) -> list[Block]:
    best = list(reversed(ranks[-SHOWN:]))
    return [
        Items("Best", [_item(result, *one) for one in best]),
        Items("Worst", [_item(result, *one) for one in ranks[:SHOWN]]),
    ]


def _item(result: Result[Corpus], row: int, score: float) -> Item:
    source, reference = result.extra.test.texts[row]
    translation = result.best.shown.greedy.texts[row]
    return Item(source, f"{translation or '(nothing)'}", note=f"BLEU {score:.1f}. Reference: {reference}")


def _data_table(result: Result[Corpus]) -> Table:
    corpus, facts = result.data, result.best.trained.setup.facts
    rows: list[list[str | float | int]] = [
        ["training pairs", f"{result.rows['train']:,}"],
        ["validation pairs", f"{result.rows['validation']:,}"],
        ["test pairs", f"{result.rows['test']:,}"],
        ["subwords", f"{len(corpus.encoder.subwords):,}"],
        ["median length of a source", f"{np.median(corpus.train.sources.lengths) - 1:,.0f} subwords"],
        ["median length of a target", f"{np.median(corpus.train.targets.lengths) - 1:,.0f} subwords"],
        ["padding in the batches", f"{facts['padding_share']:.2%}"],
        ["perplexity of a test subword", f"{result.best.test.perplexity:.3f}"],
        ["token accuracy on the test part", f"{result.best.test.token_accuracy:.2%}"],
    ]
    return Table("Data", ["", "value"], rows)
