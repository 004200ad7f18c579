"""Sentences with a tag for each word, streamed from CoNLL-U, CoNLL columns and JSON lines; errors name the line."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from recur.data.sources import broken_text, check_file, open_binary
from recur.errors import InputError, nearest

CONLLU_COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
ENDINGS = {"conllu": (".conllu",), "jsonl": (".jsonl", ".ndjson")}
FORMATS = ("auto", "conllu", "columns", "jsonl")
# of a line: its word and tag, what is wrong with it, or nothing if it holds no word
Read = tuple[str, str] | str | None


class Sentence(NamedTuple):
    """Words, one tag for each (none if they were not asked for), and the number of the first line."""

    words: list[str]
    tags: list[str]
    line: int


@dataclass(frozen=True)
class TagColumns:
    """Where words and tags stand in a file."""

    format: str = "auto"
    """"conllu", "columns", "jsonl", or "auto" to go by the file's name: .conllu, .jsonl or .ndjson, else columns."""
    column: str = "upos"
    """Of CoNLL-U: the column of the tags, one of `CONLLU_COLUMNS`."""
    word_column: int = 1
    """Of columns: the number of the words' one, from 1."""
    tag_column: int | None = None
    """Of columns: the number of the tags' one, from 1; None for the last."""
    words: str = "words"
    """Of JSON lines: the key of the list of words."""
    tags: str = "tags"
    """Of JSON lines: the key of the list of tags."""

    def __post_init__(self) -> None:
        check_columns(self)

    def of(self, path: Path) -> str:
        """Return the format of a file."""
        if self.format != "auto":
            return self.format
        suffix = Path(path.name.lower().removesuffix(".gz")).suffix
        return next((format for format, endings in ENDINGS.items() if suffix in endings), "columns")


def check_columns(columns: Any, named: Callable[[str], str] = str) -> None:
    """Raise InputError for a column that cannot be.

    Args:
        columns: has the fields of `TagColumns`.
        named: how a field is called in errors.
    """
    for name, choices in (("format", FORMATS), ("column", CONLLU_COLUMNS[1:])):
        value = getattr(columns, name)
        if value not in choices:
            hint = nearest(str(value), list(choices))
            raise InputError(f"{named(name)} must be one of {', '.join(choices)}, got {value!r}{hint}")
    for name in ("word_column", "tag_column"):
        number = getattr(columns, name)
        if number is not None and number < 1:
            raise InputError(f"{named(name)} must be a number from 1, the first column, got {number}")


class TaggedFile:
    """The sentences of a file, streamed: every `for` reads it anew and holds one sentence at a time.

    `skipped` says what was wrong with each sentence left out, complete after the last one.

    Args:
        path: the file, also .gz; UTF-8 with or without a byte-order mark, with the line ends of any system.
        columns: where words and tags stand.
        tagged: False if only words are wanted, and the tags need not be there.
        skip_bad_rows: leave broken sentences out and note them in `skipped` instead of raising.

    Raises:
        InputError: no such file.

    In CoNLL-U, lines of multiword tokens (`1-2`), of empty nodes (`8.1`) and comments are no words. In columns, which
    blanks or tabs separate, sentences end at blank lines, and a line that begins with -DOCSTART- is none. In JSON lines
    each line is an object such as `{"words": ["Go", "!"], "tags": ["VERB", "PUNCT"]}`.
    """

    def __init__(
        self,
        path: str | Path,
        columns: TagColumns | None = None,
        *,
        tagged: bool = True,
        skip_bad_rows: bool = False,
    ) -> None:
        self.path = Path(path)
        self.columns = columns or TagColumns()
        self.tagged, self.skip_bad_rows = tagged, skip_bad_rows
        self.skipped: list[str] = []
        check_file(self.path)

    def __iter__(self) -> Iterator[Sentence]:
        """Yield the sentences.

        Raises:
            InputError: a sentence that cannot be read (unless such ones are skipped), a damaged file, or none at all.
        """
        self.skipped = []
        found = False
        with open_binary(self.path) as file:
            # broken bytes become surrogates here and are found where the line is known
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape")
            read = {"conllu": self._conllu, "columns": self._columns, "jsonl": self._json}[self.columns.of(self.path)]
            for sentence in read(text):
                found = True
                yield sentence
        if not found:
            bad = f"{len(self.skipped)} bad ones ({self.skipped[0]})" if self.skipped else "none"
            raise InputError(f"{self.path}: expected sentences, found {bad}; give a file with data")

    def _bad(self, line: int, problem: str) -> None:
        if not self.skip_bad_rows:
            # by the name alone nothing is known
            guessed = self.columns.format == "auto" and self.columns.of(self.path) == "columns"
            other = ", say --format conllu or jsonl if it is no file of columns" if guessed else ""
            raise InputError(
                f"{self.path}, line {line}: {problem}; correct it{other}, or leave such sentences out with "
                "--skip-bad-rows"
            )
        self.skipped.append(f"line {line}: {problem}")

    def _conllu(self, file: IO[str]) -> Iterator[Sentence]:
        at = CONLLU_COLUMNS.index(self.columns.column)

        def fields_of(line: str) -> Read:
            if line.startswith("#"):
                return None
            fields = line.split("\t")
            if len(fields) != 10:
                return f"expected 10 columns with tabs between, as CoNLL-U has them, found {len(fields)}"
            number = fields[0]
            if not number.isdigit():
                whole = number.replace("-", ".").split(".")
                if len(whole) == 2 and whole[0].isdigit() and whole[1].isdigit():
                    return None
                return f"expected the number of a word in the first column, found {number!r}"
            return fields[1], fields[at]

        return self._blocks(file, fields_of, "_" if self.columns.column in ("upos", "xpos", "deprel") else "")

    def _columns(self, file: IO[str]) -> Iterator[Sentence]:
        word, tag, width = self.columns.word_column, self.columns.tag_column, 0

        def fields_of(line: str) -> Read:
            nonlocal width
            fields = line.split()
            if fields[0] == "-DOCSTART-":
                return None
            need = max(word, (tag or 1) if self.tagged else 1)
            if need > len(fields):
                which = "words" if need == word else "tags"
                return f"expected the {which} in column {need}, found {_columns(len(fields))}"
            if self.tagged and tag is None:
                if len(fields) < 2:
                    return f"expected a word and a tag with a blank or tab between, found only {fields[0]!r}"
                width = width or len(fields)
                if len(fields) != width:
                    return f"expected {_columns(width)} as in the lines before, found {len(fields)}"
            return fields[word - 1], fields[-1 if tag is None else tag - 1] if self.tagged else ""

        return self._blocks(file, fields_of, "")

    def _blocks(self, file: IO[str], fields_of: Callable[[str], Read], absent: str) -> Iterator[Sentence]:
        """Read sentences that blank lines end; `fields_of` makes word and tag, a complaint, or nothing of a line."""
        words: list[str] = []
        tags: list[str] = []
        first, broken = 0, False
        for number, line in enumerate(file, start=1):
            if not line.strip():
                if words and not broken:
                    yield Sentence(words, tags, first)
                words, tags, first, broken = [], [], 0, False
                continue
            if broken:
                continue
            pair = broken_text(line) or fields_of(line.rstrip("\r\n"))
            if isinstance(pair, tuple):
                word, tag = pair
                if not word.strip():
                    pair = "expected a word, found none"
                elif self.tagged and (not tag.strip() or tag == absent):
                    pair = f"expected a tag for the word {word!r}, found {tag!r}"
            if isinstance(pair, str):
                self._bad(number, pair)
                broken = True
            elif pair is not None:
                first = first or number
                words.append(pair[0])
                if self.tagged:
                    tags.append(pair[1])
        if words and not broken:
            yield Sentence(words, tags, first)

    def _json(self, file: IO[str]) -> Iterator[Sentence]:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            found = self._object(line)
            if isinstance(found, str):
                self._bad(number, found)
            else:
                yield Sentence(*found, number)

    def _object(self, line: str) -> tuple[list[str], list[str]] | str:
        """Return the words and tags of a JSON object, or what is wrong with it."""
        if problem := broken_text(line):
            return problem
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            return f"expected a JSON object, found {error.msg[:1].lower()}{error.msg[1:]} at column {error.colno}"
        except (ValueError, RecursionError) as error:
            return f"expected a JSON object, found {error}"
        if not isinstance(value, dict):
            return f"expected a JSON object, found {line.strip()[:40]}"
        lists: list[list[str]] = []
        for key in (self.columns.words, self.columns.tags)[: 1 + self.tagged]:
            if key not in value:
                return f"there is no {key!r}{nearest(key, list(value))}; the keys are {', '.join(value) or 'none'}"
            cells = value[key]
            if not isinstance(cells, list) or not all(isinstance(cell, str) for cell in cells):
                return f"expected a list of strings as {key!r}, found {json.dumps(cells)[:40]}"
            if problem := broken_text("".join(cells)):
                return problem
            if "" in (cell.strip() for cell in cells):
                return f"expected words and tags that are not empty, found an empty one in {key!r}"
            lists.append(cells)
        if not lists[0]:
            return f"expected words in {self.columns.words!r}, found none"
        if self.tagged and len(lists[0]) != len(lists[1]):
            return f"expected a tag for each of {len(lists[0])} words, found {len(lists[1])} tags"
        return lists[0], lists[1] if self.tagged else []


def _columns(count: int) -> str:
    return f"{count} column{'' if count == 1 else 's'}"
