"""What the report of a captioner draws: pictures with what was written, where it looked, and frames with labels."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from recur.models.decoder import BEGIN, END
from recur.report import Bar, BarChart, Block, Frame, HeatMap, Section, Strip, Strips, Table
from recur.tasks.caption.data import Album, Captions, Labels, Part
from recur.tasks.figures import wilson
from recur.tasks.job import Result, TaskReport
from recur.tasks.job_result import percent
from recur.tasks.labels import confusion_block

SHOWN = 12
MAPS = 3
MOST_FRAMES = 16  # of a clip that are drawn
LONGEST = 20  # words of a caption whose attention is drawn
MOST_LENGTHS = 12
TINT = np.array([255, 140, 0])

ATTENTION = (
    "How much the network looked at each {place} when it wrote each word: the weights over the {places} sum to 1."
)


def report(result: Result[Album]) -> TaskReport:
    """Say what the best network reaches, and show what it made of pictures."""
    aligned = result.data.structure == "aligned"
    lead, sections = _labels(result) if aligned else _captions(result)
    return TaskReport(
        lead=lead,
        sections=sections,
        data=[_data_table(result)],
        command=["recur", "predict", str(result.options.folder), "picture.png" if _images(result) else "frames"],
        tried_on=f"On {'pictures' if _images(result) else 'folders of frames'} of your own:",
    )


def _images(result: Result[Album]) -> bool:
    return result.data.structure == "one-to-many"


def _captions(result: Result[Album]) -> tuple[str, list[Section]]:
    best, test = result.best, result.extra
    scores, texts = best.test, best.shown["greedy"].texts
    right, wrong = _told_apart(result)
    sections = [
        Section(
            "Pictures",
            "Pictures of the test part with what was written, greedily; of a wrong one what was to be written.",
            [
                Strips(f"{min(SHOWN, len(wrong))} of {len(wrong):,} wrong ones", _strips(result, wrong[:SHOWN])),
                Strips(f"{min(SHOWN, len(right))} of {len(right):,} right ones", _strips(result, right[:SHOWN])),
            ],
        ),
        Section("Greedy or beam", "The same network, searched in two ways.", [_search(result)]),
    ]
    if scores.references == 1:
        sections.append(Section("Length", "Exact captions by the words of the true one.", [_by_length(result)]))
    if best.trained.model.config.attention != "none":
        names = ("place of the picture", "places") if _images(result) else ("frame", "frames")
        text = ATTENTION.format(place=names[0], places=names[1])
        rows = [row for row in [*wrong[:MAPS], *right[:MAPS]] if 0 < len(texts[row].split()) <= LONGEST]
        sections.insert(1, Section("Attention", text, list(_attention(result, test, rows))))
    lead = f"{best.trained.name} writes {percent(scores.exact)} of {result.rows['test']:,} test captions to the letter"
    return f"{lead}; CIDEr-D {scores.cider:.2f} of 10, BLEU {scores.bleu:.2f} ({scores.signature}).", sections


def _told_apart(result: Result[Album]) -> tuple[list[int], list[int]]:
    """Return the test pictures whose captions are right, and those whose are not."""
    encoder, found = result.data.encoder, result.best.shown["greedy"]
    assert isinstance(encoder, Captions)
    rows: tuple[list[int], list[int]] = ([], [])
    for row, (picture, text) in enumerate(zip(result.extra.pictures, found.texts, strict=True)):
        true = [encoder.joined(encoder.tokenizer(one)) for one in picture.texts]
        rows[text not in true].append(row)
    return rows


def _strips(result: Result[Album], rows: Sequence[int]) -> list[Strip]:
    found, test = result.best.shown["greedy"], result.extra
    right = set(_told_apart(result)[0])
    strips = []
    for row in rows:
        written = found.written[row]
        note = f"{test.pictures[row].path.name}, probability {np.exp(written.log_probability):.1%}"
        truth = "" if row in right else " / ".join(test.pictures[row].texts)
        frames = [Frame(_drawn(pixels)) for pixels in test.clips[row][:MOST_FRAMES]]
        strips.append(Strip(frames, found.texts[row] or "(nothing)", truth, note))
    return strips


def _drawn(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels [C, H, W] as a report takes them."""
    return pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))


@torch.no_grad()
def _attention(result: Result[Album], test: Part, rows: Sequence[int]) -> Iterator[Block]:
    model, encoder, found = result.best.trained.model, result.data.encoder, result.best.shown["greedy"]
    assert isinstance(encoder, Captions)
    model.eval()
    strips = []
    for row in rows:
        ids = found.written[row].tokens
        pictures = torch.from_numpy(test.clips[row].copy())[None]
        target = torch.tensor([[BEGIN, *ids]])
        lengths = torch.tensor([pictures.shape[1]]), torch.tensor([target.shape[1]])
        weights = model.attention_weights(pictures, lengths[0], target, lengths[1])[0].double().numpy()
        words = [*encoder.tokens(ids), encoder.vocabulary.token(END)]
        if _images(result):
            vision = model.vision
            maps = weights.reshape(len(words), vision.rows, vision.columns)
            frames = [Frame(_tinted(test.clips[row][0], one), word) for one, word in zip(maps, words, strict=True)]
            strips.append(Strip(frames, found.texts[row], note=test.pictures[row].path.name))
        else:
            title = f"{found.texts[row]}: {test.pictures[row].path.name}"
            yield HeatMap(title, "frame", "word", "weight", weights, limits=(0.0, 1.0), x_first=1, y_names=words)
    if strips:
        yield Strips("Where each word looked", strips)


def _tinted(pixels: NDArray[np.uint8], weights: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return pixels [C, H, W] as [H, W, 3] with weights [h, w] laid over them."""
    height, width = pixels.shape[1:]
    rows = np.arange(height) * weights.shape[0] // height
    columns = np.arange(width) * weights.shape[1] // width
    share = (weights / max(weights.max(), 1e-9))[rows][:, columns, None]
    colour = np.broadcast_to(pixels.transpose(1, 2, 0).astype(np.float64), (height, width, 3))
    mixed: NDArray[np.uint8] = (colour * (1 - 0.5 * share) + 0.5 * share * TINT).astype(np.uint8)
    return mixed


def _search(result: Result[Album]) -> Table:
    rows: list[list[str | float | int]] = []
    for found in result.best.shown.values():
        s = found.scores
        rows.append(
            [
                "greedy" if s.beam == 1 else f"beam {s.beam}",
                f"{percent(s.exact)} ({percent(s.exact_interval[0])} - {percent(s.exact_interval[1])})",
                f"{s.cider:.3f} ({s.cider_interval[0]:.3f} - {s.cider_interval[1]:.3f})",
                f"{s.bleu:.2f} ({s.bleu_interval[0]:.2f} - {s.bleu_interval[1]:.2f})",
                s.unfinished,
            ]
        )
    return Table("Search", ["", "exact", "CIDEr-D", "BLEU", "cut off"], rows, note="In brackets 95% intervals.")


def _by_length(result: Result[Album]) -> BarChart:
    lengths = result.extra.targets.lengths - 1
    right = np.zeros(len(lengths), bool)
    right[_told_apart(result)[0]] = True
    bars = []
    for length in np.unique(lengths)[:MOST_LENGTHS].tolist():
        here = right[lengths == length]
        interval = wilson(int(here.sum()), len(here))
        bars.append(Bar(f"{length} words", float(here.mean()), *interval, own=True, note=f"{len(here)} pictures"))
    return BarChart("Exact captions", bars)


def _labels(result: Result[Album]) -> tuple[str, list[Section]]:
    encoder, best, test = result.data.encoder, result.best, result.extra
    assert isinstance(encoder, Labels)
    scores = best.test
    given = best.shown.argmax(1)
    wrong = np.add.reduceat(given != test.targets.values, test.targets.offsets[:-1])
    order = np.argsort(-wrong, kind="stable").tolist()
    lead = (
        f"{best.trained.name} gives {percent(scores.accuracy)} of {scores.rows:,} frames in {scores.clips:,} test "
        f"clips the right one of {len(encoder.names)} labels, and {percent(scores.whole)} of the clips all right ones."
    )
    return lead, [
        Section(
            "Clips",
            "Clips of the test part with the label of each frame; where it is wrong the true one stands behind it.",
            [
                Strips(
                    "The worst", [_labelled(test, encoder.names, given, row) for row in order[:SHOWN] if wrong[row]]
                ),
                Strips(
                    "Right ones",
                    [_labelled(test, encoder.names, given, row) for row in order[-SHOWN // 2 :] if not wrong[row]],
                ),
            ],
        ),
        Section(
            "Confusion",
            f"Of {best.trained.name}, on the test part.",
            [confusion_block(encoder.names, scores.confusion, "frames")],
        ),
    ]


def _labelled(test: Part, names: Sequence[str], given: NDArray[np.int64], row: int) -> Strip:
    start, end = test.targets.offsets[row : row + 2]
    frames = []
    for pixels, said, true in zip(test.clips[row], given[start:end], test.targets[row], strict=True):
        name = names[said] if said == true else f"{names[said]}, not {names[true]}"
        frames.append(Frame(_drawn(pixels), name, wrong=bool(said != true)))
    return Strip(frames[:MOST_FRAMES], test.pictures[row].path.name)


def _data_table(result: Result[Album]) -> Table:
    data, facts = result.data, result.best.trained.setup.facts
    lengths = data.train.clips.lengths
    rows: list[list[str | float | int]] = [
        ["training pictures", f"{result.rows['train']:,}"],
        ["validation pictures", f"{result.rows['validation']:,}"],
        ["test pictures", f"{result.rows['test']:,}"],
        ["training captions", f"{len(data.train.targets):,}"],
        ["structure", data.structure],
        ["pixels, height x width", data.form.size],
        ["colours", "grey" if data.form.colours == 1 else "red, green and blue"],
        ["frames of a clip", f"{lengths.min()} to {lengths.max()}"],
        ["pixels held", f"{_megabytes(data.train) + _megabytes(data.validation):,.0f} MB"],
        ["padding in the batches", percent(facts["padding_share"])],
    ]
    if isinstance(data.encoder, Captions):
        rows.append(["words", f"{len(data.encoder.words):,}"])
    return Table("Data", ["", "value"], rows)


def _megabytes(part: Part) -> float:
    return part.clips.values.nbytes / 1e6
