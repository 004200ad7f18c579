"""From files of sentences to their parts; words and letters are counted in the training part alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from recur.data.tagged import TagColumns, TaggedFile
from recur.data.vectors import WordVectors, read_vectors
from recur.errors import InputError
from recur.tasks.tag.options import TagOptions
from recur.tasks.tag.words import Encoder, Rows, Tagged

MORE = 100_000  # words of given vectors that are known although the training part has them not, the first of the file


@dataclass(frozen=True)
class Source:
    """Some sentences of a file."""

    path: str
    columns: TagColumns
    skip_bad_rows: bool = False
    rows: Rows | None = None
    """Numbers of sentences, rising, from 0; None for all."""

    def read(self) -> tuple[Tagged, list[str]]:
        """Read the sentences, and what a person should know of the file.

        Raises:
            InputError: a file or sentence that cannot be read.
        """
        file = TaggedFile(self.path, self.columns, skip_bad_rows=self.skip_bad_rows)
        chosen = None if self.rows is None else set(self.rows.tolist())
        data = Tagged.of((s.words, s.tags) for i, s in enumerate(file) if chosen is None or i in chosen)
        count = len(file.skipped)
        return data, [f"{count} bad sentences of {self.path} left out, the first: {file.skipped[0]}"] if count else []


@dataclass(frozen=True)
class TagData:
    """What a run learns from, and where its test part is."""

    encoder: Encoder
    train: Tagged
    validation: Tagged
    test: Source
    """It is seen at the start that it can be read; it is read at the end."""
    seen: NDArray[np.int64]
    """Hashes of the sentences of the training file that are not in the test part."""
    notes: list[str]
    """What a person should know of the data."""
    vectors: WordVectors | None = field(default=None, repr=False)


def read_data(options: TagOptions) -> TagData:
    """Read the training file, cut off what has no file of its own, and see that the test file can be read.

    Raises:
        InputError: a file or sentence that cannot be read, too few sentences, or tags that do not fit.
    """
    source = Source(options.train, options.columns, options.skip_bad_rows)
    whole, notes = source.read()
    shares = 0.0 if options.validation else options.validation_share, 0.0 if options.test else options.test_share
    train_rows, validation_rows, test_rows = split(len(whole), *shares)
    for rows, share, name in ((validation_rows, shares[0], "validation"), (test_rows, shares[1], "test")):
        if share and not (len(rows) and len(train_rows)):
            raise InputError(
                f"{options.train} must have enough sentences to cut a {name} part off, got {len(whole)}; give more, "
                f"or a file with --{name}"
            )
    train = whole.take(train_rows)
    tags = sorted(train.present())
    if len(tags) < 2:
        raise InputError(
            f"{options.train}: expected at least two different tags, found only {tags[0]!r}; see that the column of "
            "the tags is the right one"
        )
    if options.validation:
        validation, more = Source(options.validation, options.columns, options.skip_bad_rows).read()
        notes += more
    else:
        validation = whole.take(validation_rows)
    validation = validation.renamed(tags)
    notes += _strangers(options.validation or options.train, "the validation part", validation, tags)
    if options.test:
        test = Source(options.test, options.columns, options.skip_bad_rows)
        # what is in it is looked at when all is learned
        for _ in TaggedFile(test.path, test.columns, skip_bad_rows=test.skip_bad_rows):
            pass
    else:
        test = Source(options.train, options.columns, options.skip_bad_rows, test_rows)
        notes.append(
            f"no --test given: {len(test_rows)} sentences of {options.train}, drawn by chance, are the test part"
        )
    vectors = read_vectors(options.vectors) if options.vectors else None
    encoder = Encoder.of(
        train,
        tags,
        size=options.vocabulary,
        min_count=options.min_count,
        lower=options.lower,
        more=islice(vectors.words, MORE) if vectors else (),
    )
    if vectors and not any(word in vectors.numbers for word in encoder.words.words[: encoder.learned]):
        raise InputError(
            f"--vectors {options.vectors} has none of the {encoder.learned} words of the training part; give vectors "
            "of their language and spelling, or leave it out"
        )
    seen = np.concatenate([train.hashes, whole.hashes[validation_rows]])
    return TagData(encoder, train.renamed(tags), validation, test, seen, notes, vectors)


def read_test(data: TagData) -> tuple[Tagged, list[str]]:
    """Read the test part, and what a person should know of it."""
    test, notes = data.test.read()
    test = test.renamed(data.encoder.tags)
    notes += _strangers(data.test.path, "the test part", test, data.encoder.tags)
    twice = int(np.isin(test.hashes, data.seen).sum())
    if twice:
        notes.append(
            f"{twice} of {len(test)} test sentences ({twice / len(test):.1%}) are in the training file too; the score "
            "may flatter"
        )
    return test, notes


def read_tagged(source: Source, encoder: Encoder) -> tuple[Tagged, list[str]]:
    """Read another file, for a trained network to be scored on, and what a person should know of it.

    Raises:
        InputError: a file or sentence that cannot be read, or most of its tags are not known.
    """
    found, notes = source.read()
    found = found.renamed(encoder.tags)
    return found, notes + _strangers(source.path, source.path, found, encoder.tags)


def split(sentences: int, validation: float, test: float) -> tuple[Rows, Rows, Rows]:
    """Cut sentences into training, validation and test part by chance.

    The cut is a function of the arguments alone: runs with other seeds have the same parts.

    Args:
        sentences: how many.
        validation: share of what is no test part; may be 0.
        test: share; may be 0.

    Returns:
        The numbers of each part's sentences, rising.
    """
    order = np.random.default_rng(0).permutation(sentences)
    ends = max(1, round(test * sentences)) if test else 0
    more = max(1, round(validation * (sentences - ends))) if validation else 0
    test_rows, validation_rows, train_rows = np.split(order, [ends, ends + more])
    return np.sort(train_rows), np.sort(validation_rows), np.sort(test_rows)


def _strangers(path: str, part: str, data: Tagged, tags: Sequence[str]) -> list[str]:
    """Note words with tags that the training part lacks; where most words have such, something is wrong."""
    count, words = int((data.tags.values >= len(tags)).sum()), len(data.tags.values)
    if not count:
        return []
    names = [name for name in data.names[len(tags) :] if name in data.present()]
    shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
    if count > words / 2:
        known = ", ".join(tags[:10]) + (", ..." if len(tags) > 10 else "")
        raise InputError(
            f"{path}: the tags of {count} of {words} words ({shown}) are not among those of the training data, "
            f"{known}; see that the column of the tags is the right one"
        )
    return [f"{count} words of {part} have tags that the training part lacks ({shown}); they count as wrong"]
