"""A trained language model: it continues texts, and says how likely they are."""

import dataclasses
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recur.data.coders import Coder
from recur.data.plain import TextPart, count_characters
from recur.data.stream import StreamWindows, write_stream
from recur.errors import InputError
from recur.models.language import LanguageModel
from recur.tasks.generate.data import text_parts
from recur.tasks.generate.model import LanguageObjective, Scores, surprise
from recur.tasks.generate.options import GenerateOptions
from recur.tasks.generate.writing import Writer, prefix_ids
from recur.tasks.job import Example, Predictor
from recur.tasks.options import flag, make_options

# tokens of a row whose gradient is looked at
LOOKED_AT = 64


@dataclass(frozen=True)
class Continuation:
    """What a network wrote behind a text."""

    continuation: str


class GeneratePredictor(Predictor):
    """A trained language model.

    Args:
        folder, config, model: as for every predictor.
        coder: from text to ids and back.
        unknown: whether the network has learned what an unknown token is.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], model: LanguageModel, coder: Coder, unknown: bool
    ) -> None:
        super().__init__(folder, config, model)
        self.coder, self.unknown = coder, unknown

    def generate(
        self,
        prefix: str = "",
        length: int = 500,
        *,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 1,
    ) -> Iterator[str]:
        """Return what yields a text behind `prefix`, token by token as it is made.

        Args:
            prefix: what the text begins with.
            length: tokens.
            temperature: 0 takes the likeliest token; below 1 the likely ones gain, above 1 the others.
            top_k: draw from the k likeliest tokens only.
            top_p: draw from the fewest tokens that together are at least so probable.
            seed: of the draws.

        Raises:
            InputError: an argument out of its range, or a prefix with tokens that the network never read.
        """
        if length < 1:
            raise InputError(f"`length` must be at least 1, got {length}")
        if not 0 <= temperature < math.inf:
            raise InputError(f"`temperature` must be 0 or greater, got {temperature!r}")
        if not 0 <= seed < 2**63:
            raise InputError(f"`seed` must be from 0 to 9223372036854775807, got {seed}")
        start = prefix_ids(self.coder, prefix, unknown=self.unknown)
        writer = Writer(self.model, self.coder, start, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        return writer.write(length)

    def predict(self, texts: Iterable[str], **how: Any) -> list[Continuation]:
        """Continue each text; `how` is that of `generate`.

        Raises:
            InputError: `texts` is a single string, and as `generate`.
        """
        if isinstance(texts, str):
            raise InputError("`texts` must be several texts, got a single one; put it into a list: [text]")
        return [Continuation("".join(self.generate(text, **how))) for text in texts]

    def items(self, file: str | Path) -> Iterator[str]:
        """Yield the lines of a text file."""
        rest = ""
        for piece in TextPart(Path(file)):
            *lines, rest = (rest + piece).split("\n")
            yield from lines
        if rest:
            yield rest

    def line(self, item: str, answer: Continuation) -> str:
        """Return the text and what was written behind it, its line ends and tabs as \\n and \\t."""
        return (item + answer.continuation).replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")

    def evaluate(self, path: str | Path, **sampling: Any) -> Scores:
        """Read a text from a state of zeros and score how well each token was foretold.

        Raises:
            InputError: the file is missing, empty or no text, or has fewer than 2 tokens; or something else is given.
        """
        for name in sampling:
            raise InputError(
                f"{flag(name)} says how a text is written, and has no part in how likely one is; leave it out"
            )
        path = Path(path)
        characters = count_characters(path)
        notes = self.warn_if_learned(path)
        with tempfile.TemporaryDirectory() as folder:
            stream = write_stream(Path(folder) / "text.stream", self.coder.ids(TextPart(path)), joined=True)
            if len(stream) < 2:
                raise InputError(f"{path} must have at least 2 tokens, got {len(stream)}")
            found = surprise(self.model, stream)
            if (unknown := int(found.tokens[1])) and not self.unknown:
                notes.append(
                    f"{unknown:,} of {found.count:,} tokens do not stand in the training text; they count as <unk>"
                )
        return dataclasses.replace(found.scores(characters), notes=tuple(notes))

    def shown(self, scores: Scores) -> str:
        """Return perplexity, nats, and bits per token and per character."""
        interval = scores.interval
        around = f"  (95% interval {interval[0]:.3f} - {interval[1]:.3f})" if interval else ""
        lines = [
            f"perplexity          {scores.perplexity:.3f}{around}",
            f"nats per token      {scores.loss:.4f}",
            f"bits per token      {scores.bits_per_token:.4f}",
            f"bits per character  {scores.bits_per_character:.4f}",
            f"tokens              {scores.tokens:,}",
            f"characters          {scores.characters:,}",
            *(f"note: {note}" for note in scores.notes),
        ]
        return "\n".join(lines)

    def example(self, file: Path | None, rows: int) -> Example:
        """Return windows at even distances through a text, or through the validation part of the run's own.

        Raises:
            InputError: the text is too short, or the run's own is gone or was changed.
        """
        part = TextPart(Path(file)) if file else self._validation()
        ids = np.concatenate(list(self.coder.ids(part)))
        with tempfile.TemporaryDirectory() as folder:
            stream = write_stream(Path(folder) / "text.stream", [ids])
            if len(stream) <= rows * 2:
                raise InputError(f"the text must have more than {2 * rows} tokens for {rows} rows, got {len(stream)}")
            window = StreamWindows(stream, rows, LOOKED_AT, batch_first=True)[0]
        return Example(*LanguageObjective(self.model).probe(window, rows), None)

    def _validation(self) -> TextPart:
        options = make_options(GenerateOptions, self.options, str(self.folder / "config.json"))
        self.own_file(self.validation_file, "give text with --data FILE")
        return text_parts(options)["validation"]
