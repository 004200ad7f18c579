"""A trained translator: its translations, its scores on other files, and rows to look at its gradients on."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recur.data.aligned import AlignedFiles
from recur.data.batches import PairBatches
from recur.data.tables import FORMATS, read_table
from recur.errors import InputError
from recur.models.seq2seq import EncoderDecoder
from recur.tasks.decoding import Decoding
from recur.tasks.job import Example, Predictor, evenly, longest
from recur.tasks.options import make_options
from recur.tasks.progress import Progress
from recur.tasks.translate.data import Encoder, PairFile, Part, find_parts, pair_file, read_part
from recur.tasks.translate.model import TranslateObjective, translate
from recur.tasks.translate.options import TranslateOptions
from recur.tasks.translate.scores import TranslateScores, score


@dataclass(frozen=True)
class Translation:
    """What a network makes of a text."""

    translation: str
    log_probability: float
    """Of the translation, in nats."""
    finished: bool
    """Whether it came to an end before the longest length."""


class TranslatePredictor(Predictor):
    """A trained translator.

    Args:
        folder, config, model: as for every predictor.
        encoder: from texts to ids and back.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], model: EncoderDecoder, encoder: Encoder) -> None:
        super().__init__(folder, config, model)
        self.encoder = encoder

    def predict(
        self,
        texts: Iterable[str],
        *,
        beam: int = 1,
        length_penalty: float = 1.0,
        batch_size: int = 64,
        progress: Progress | None = None,
    ) -> list[Translation]:
        """Translate texts.

        Args:
            texts: any number; an empty one is answered as well.
            beam: width of the beam; 1 takes the most probable subword at every step.
            length_penalty: exponent of the penalty by which a beam divides; the larger, the longer the translations.
            batch_size: texts at a time.
            progress: shows how far it is.

        Raises:
            InputError: `texts` is a single string, or an argument is out of its range.
        """
        if isinstance(texts, str):
            raise InputError("`texts` must be several texts, got a single one; put it into a list: [text]")
        search = Decoding(beam=beam, length_penalty=length_penalty)
        search.check()
        found = translate(self.model, self.encoder(texts), search, batch_size=batch_size, progress=progress)
        return [Translation(self.encoder.text(one.ids), one.log_probability, one.finished) for one in found]

    def items(
        self,
        file: str | Path,
        *,
        source: str | None = None,
        target: str | None = None,
        header: bool | None = None,
        quotes: bool | None = None,
        skip_bad_rows: bool = False,
    ) -> Iterator[str]:
        """Yield the sources of a table, or the lines of a text file, in a stream."""
        path = Path(file)
        if not path.name.lower().removesuffix(".gz").endswith(FORMATS):
            return (text for (text,) in AlignedFiles(path, skip_bad_rows=skip_bad_rows))
        pairs = self._pairs(path, source, target, header, quotes, skip_bad_rows)
        table = read_table(path, [pairs.source], skip_bad_rows=skip_bad_rows, header=pairs.header, quotes=pairs.quotes)
        return (row[pairs.source] for row in table)

    def line(self, item: str, answer: Translation) -> str:
        """Return the translation."""
        return answer.translation

    def evaluate(
        self,
        path: str | Path,
        *,
        beam: int = 1,
        length_penalty: float = 1.0,
        source: str | None = None,
        target: str | None = None,
        header: bool | None = None,
        quotes: bool | None = None,
        skip_bad_rows: bool = False,
        progress: Progress | None = None,
    ) -> TranslateScores:
        """Score the network on a file of pairs.

        Args:
            path: a table, or a text file with a source in each line.
            beam, length_penalty: as `predict`.
            source: column of the sources; that of the training file by default.
            target: column of the translations, or, where `path` is a text file, the file of its translations.
            header, quotes: as in the options of the training; those by default.
            skip_bad_rows: leave broken rows out.
            progress: shows how far it is.

        Raises:
            InputError: a file cannot be read, or an argument is out of its range.
        """
        search = Decoding(beam=beam, length_penalty=length_penalty)
        search.check()
        file = self._pairs(path, source, target, header, quotes, skip_bad_rows)
        part = read_part(self.encoder, file)
        notes = [f"{len(file.skipped)} bad rows left out, the first: {file.skipped[0]}"] if file.skipped else []
        return score(
            self.model,
            self.encoder,
            part,
            search,
            tokens=self.options.get("bleu_tokens", "13a"),
            batch_size=int(self.options.get("batch_size", 64)),
            progress=progress or Progress(),
            notes=[*notes, *self.warn_if_learned(path)],
        ).scores

    def shown(self, scores: TranslateScores) -> str:
        """Return BLEU with its signature, chrF, and what the model gives the references."""
        low, high = scores.interval
        search = "greedy" if scores.beam == 1 else f"beam {scores.beam}"
        lines = [
            f"BLEU            {scores.bleu:.2f}  (95% interval {low:.2f} - {high:.2f})",
            f"sentences       {scores.rows:,}, {search}",
            f"signature       {scores.signature}",
            f"chrF            {scores.chrf:.2f}  {scores.chrf_signature}",
            f"perplexity      {scores.perplexity:.3f}  (of a subword)",
            f"token accuracy  {scores.token_accuracy:.2%}",
            f"exact           {scores.exact:.2%}",
            *([f"cut off         {scores.unfinished:,}"] if scores.unfinished else []),
            *(f"note: {note}" for note in scores.notes),
        ]
        return "\n".join(lines)

    def example(
        self,
        file: Path | None,
        rows: int,
        *,
        source: str | None = None,
        target: str | None = None,
        header: bool | None = None,
        quotes: bool | None = None,
        skip_bad_rows: bool = False,
    ) -> Example:
        """Return pairs at even distances through a file, or through the validation part.

        Raises:
            InputError: a file that cannot be read, or the run's own is gone or was changed.
        """
        if file is None:
            part = self._validation()
        else:
            part = read_part(self.encoder, self._pairs(file, source, target, header, quotes, skip_bad_rows))
        chosen = evenly(len(part.sources), rows)
        sources, targets = part.sources.take(chosen), part.targets.take(chosen)
        (batch,) = PairBatches(sources, targets, len(chosen), seed=0, shuffle=False)
        probed = TranslateObjective(self.model, TranslateOptions(train=""), 1).probe(batch, len(chosen))
        return Example(*probed, longest(batch.source_lengths))

    def _validation(self) -> Part:
        options = self.options
        for name in TranslateOptions.PATHS:
            if options.get(name):
                self.own_file(name)
        return read_part(
            self.encoder, find_parts(make_options(TranslateOptions, options, "config.json")).files["validation"]
        )

    def _pairs(
        self,
        path: str | Path,
        source: str | None,
        target: str | None,
        header: bool | None,
        quotes: bool | None,
        skip_bad_rows: bool,
    ) -> PairFile:
        table = Path(path).name.lower().removesuffix(".gz").endswith(FORMATS)
        if not table and target is None:
            raise InputError(
                f"{path} is a text file: give that of its translations with --target, or a table, whose name ends in "
                f"{', '.join(FORMATS)}"
            )
        options = self.options
        return pair_file(
            str(path),
            None if table else target,
            source=(source or options.get("source")) if table else None,
            target=(target or options.get("target")) if table else None,
            header=bool(options.get("header", True) if header is None else header),
            quotes=bool(options.get("quotes", True) if quotes is None else quotes),
            skip_bad_rows=skip_bad_rows,
        )
