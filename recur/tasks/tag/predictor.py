"""A trained tagger: its answers, its scores on other files, and sentences to look at its gradients on."""

import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recur.data.sources import broken_text, open_binary
from recur.data.tagged import TagColumns, TaggedFile
from recur.errors import InputError
from recur.models.tagger import Tagger
from recur.tasks.job import Example, Predictor, evenly
from recur.tasks.job_result import columns, percent
from recur.tasks.tag.data import Source, read_tagged, split
from recur.tasks.tag.model import TagObjective, guess
from recur.tasks.tag.scores import TagScores, score
from recur.tasks.tag.words import Encoder, Rows, TagBatches, Tagged

MOST_TAGS = 50  # that are listed
Words = str | Sequence[str]


@dataclass(frozen=True)
class TaggedWords:
    """What a network says of a sentence."""

    words: list[str]
    tags: list[str]
    """A tag for each word."""
    probabilities: list[float]
    """Of each tag."""


class TagPredictor(Predictor):
    """A trained tagger.

    Args:
        folder, config, model: as for every predictor.
        encoder: from words to ids.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], model: Tagger, encoder: Encoder) -> None:
        super().__init__(folder, config, model)
        self.encoder = encoder

    def predict(self, items: Iterable[Words], batch_size: int = 128) -> list[TaggedWords]:
        """Tag the words of sentences.

        Args:
            items: any number of sentences: lists of words, or texts that are cut at blanks.
            batch_size: sentences at a time.

        Raises:
            InputError: `items` is a single string.
        """
        if isinstance(items, str):
            raise InputError("`items` must be several sentences, got a single one; put it into a list: [text]")
        sentences = [item.split() if isinstance(item, str) else list(item) for item in items]
        data = Tagged.of((words, ()) for words in sentences)
        found = guess(self.model, data, self.encoder.table(data.forms), batch_size)
        bounds = data.sentences.offsets.tolist()
        tags, chances = [self.encoder.tags[tag] for tag in found.tags.tolist()], found.probability.tolist()
        return [
            TaggedWords(words, tags[start:end], chances[start:end])
            for words, start, end in zip(sentences, bounds, bounds[1:], strict=False)
        ]

    def items(self, file: str | Path, **how: Any) -> Iterator[Words]:
        """Yield the sentences of a file, in a stream.

        Args:
            file: .txt, or any with format "text", for a sentence in each line; else a file of the kind that the network
                was trained on, whose tags need not be there.
            **how: fields of `TagFile`.
        """
        text = Path(str(file).lower().removesuffix(".gz")).suffix == ".txt"
        if (how.get("format") or ("text" if text else "")) == "text":
            return _lines(Path(file))
        columns, skip = self._columns(how)
        return (sentence.words for sentence in TaggedFile(file, columns, tagged=False, skip_bad_rows=skip))

    def line(self, item: Words, answer: TaggedWords) -> str:
        """Return a line for each word, word and tag with a tab between, and an empty one behind the sentence."""
        pairs = zip(answer.words, answer.tags, strict=True)
        return "".join(f"{word}\t{tag}\n" for word, tag in pairs)

    def json(self, item: Words, answer: TaggedWords) -> dict[str, Any]:
        """Return words, tags and their probabilities."""
        return dataclasses.asdict(answer)

    def evaluate(self, path: str | Path, **how: Any) -> TagScores:
        """Score the network on a file of tagged sentences.

        Args:
            path: the file.
            **how: fields of `TagFile`: format, columns, skip_bad_rows; by default as the training file was read.

        Raises:
            InputError: the file cannot be read, or most of its tags are not known.
        """
        columns, skip = self._columns(how)
        data, notes = read_tagged(Source(str(path), columns, skip), self.encoder)
        found = guess(self.model, data, self.encoder.table(data.forms))
        scores = score(found, data, self.encoder.knows(data.forms))
        return dataclasses.replace(scores, notes=(*notes, *self.warn_if_learned(path)))

    def shown(self, scores: TagScores) -> str:
        """Return the scores by word and span, and the precision and recall of each tag."""
        low, high = map(percent, scores.interval)
        around = f"95% interval {low} - {high}"
        counted = f"{scores.words:,} words in {scores.sentences:,} sentences"
        lines = [
            f"accuracy         {percent(scores.accuracy)}  ({counted if scores.spans else f'{around}, {counted}'})"
        ]
        if scores.spans:
            s = scores.spans
            found = f"precision {percent(s['precision'])}, recall {percent(s['recall'])}, {s['true']:,} spans"
            lines.insert(0, f"span F1          {percent(s['f1'])}  ({around}; {found})")
        if scores.unknown_accuracy is not None:
            lines.append(f"  unknown words  {percent(scores.unknown_accuracy)}  ({scores.unknown:,} words)")
        lines += [
            f"whole sentences  {percent(scores.sentence_accuracy)}",
            f"macro F1         {scores.macro_f1:.4f}",
            f"loss             {scores.loss:.4f}",
            "",
            *(f"note: {note}" for note in scores.notes),
            columns(
                [
                    ("tag", "precision", "recall", "F1", "words"),
                    *map(_row, sorted(scores.by_tag, key=lambda one: -one["true"])[:MOST_TAGS]),
                ]
            ),
        ]
        return "\n".join(lines)

    def example(self, file: Path | None, rows: int, **how: Any) -> Example:
        """Return sentences at even distances through a file, or through the validation part.

        Raises:
            InputError: a file or column that does not fit, no sentence of two words, or the run's own file is gone or
                was changed.
        """
        columns, skip = self._columns(how)
        source = self._validation(columns) if file is None else Source(str(file), columns, skip)
        data, _ = read_tagged(source, self.encoder)
        data = data.take(evenly(len(data), rows))
        (batch,) = TagBatches(data, self.encoder.table(data.forms), len(data), shuffle=False)
        lengths = batch.inputs.lengths.tolist()
        if max(lengths) < 2:
            raise InputError(
                f"{source.path}: the {len(lengths)} sentences looked at must have one of at least 2 words, for a "
                f"gradient to flow through; the longest has {max(lengths)}"
            )
        # the rows of the layer that reads letters are words: no number of a row is right for both
        return Example(*TagObjective(self.model, self.encoder.tags).probe(batch, len(lengths)), None)

    def _validation(self, columns: TagColumns) -> Source:
        path = self.own_file(self.validation_file)
        skip = bool(self.options.get("skip_bad_rows"))
        rows: Rows | None = None
        if self.validation_file == "train":
            sentences = sum(1 for _ in TaggedFile(path, columns, skip_bad_rows=skip))
            test = 0.0 if self.options.get("test") else self.options["test_share"]
            rows = split(sentences, self.options["validation_share"], test)[1]
        return Source(path, columns, skip, rows)

    def _columns(self, how: Mapping[str, Any]) -> tuple[TagColumns, bool]:
        given = {name: value for name, value in how.items() if value is not None}
        skip = bool(given.pop("skip_bad_rows", False))
        names = [field.name for field in dataclasses.fields(TagColumns)]
        if unknown := [name for name in given if name not in names]:
            raise InputError(f"`{unknown[0]}` is no column of a file of tags; there are {', '.join(names)}")
        return TagColumns(**{name: self.options[name] for name in names if name in self.options} | given), skip


def _lines(path: Path) -> Iterator[str]:
    with open_binary(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape")
        for number, line in enumerate(text, start=1):
            if problem := broken_text(line):
                raise InputError(f"{path}, line {number}: {problem}; save the file as UTF-8")
            yield line


def _row(one: Mapping[str, Any]) -> list[str]:
    return [one["tag"], *(percent(one[name]) for name in ("precision", "recall", "f1")), f"{one['true']:,}"]
