"""From files of stories to numbers: whole stories are cut into parts, and the test part is read at the end alone."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recur.data.sequences import Keep, Sequences
from recur.data.sound import compiled
from recur.data.stories import Question, Stories, read_questions, story_files
from recur.data.text import Kind, Tokenizer, guess_kind
from recur.data.vocabulary import Vocabulary
from recur.errors import InputError
from recur.tasks.answer.options import AnswerOptions
from recur.tasks.labels import split

# newest sentences are kept
KEEP: Keep = "last"
_END = re.compile(r"[\s.?!。？！]+$")


@dataclass(frozen=True)
class Encoder:
    """From questions to numbers, as the network was trained on them."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    labels: list[str]
    """The answers, in the order of their numbers."""
    max_sentences: int | None

    def words(self, sentence: str) -> list[str]:
        """Return the words of a sentence, without the mark at its end."""
        return self.tokenizer(_END.sub("", sentence))

    def __call__(self, questions: Iterable[Question]) -> Stories:
        """Return questions as numbers; words and answers that training has not met are unknown."""
        numbers: dict[str, int] = {}
        known = {label: number for number, label in enumerate(self.labels)}
        asked, stories, answers = [], [], []
        for question in questions:
            stories.append([numbers.setdefault(sentence, len(numbers)) for sentence in question.story])
            asked.append(numbers.setdefault(question.text, len(numbers)))
            answers.append(known.get(question.answer, -1))
        told = Sequences.of(stories)
        return Stories(
            Sequences.of(self.vocabulary.ids(self.words(sentence)) for sentence in numbers),
            told if self.max_sentences is None else told.truncate(self.max_sentences, KEEP),
            np.array(asked, dtype=np.int64),
            np.array(answers, dtype=np.int64),
        )


class Part(NamedTuple):
    """One part of the data."""

    questions: list[Question]
    stories: Stories
    """The same as numbers."""


@dataclass(frozen=True)
class Corpus:
    """What a run learns from, and where its test part is."""

    encoder: Encoder
    train: Part
    validation: Part
    test: "list[Path] | list[Question]"
    """Files whose lines are checked at the start and not kept before the end; or what was cut off those of training."""
    notes: list[str]
    """What a person should know of the data."""


def read_corpus(options: AnswerOptions) -> Corpus:
    """Read the questions to learn from and cut the parts; words and answers are those of the training part.

    Raises:
        InputError: a file or line that cannot be read, too few stories or answers, or a pattern that fits no file.
    """
    files, tested = _files(options)
    # every line is checked before hours of training, nothing is kept
    for _ in chain.from_iterable(map(read_questions, tested)):
        pass
    questions = _read(files)
    given = _read(story_files(options.validation)) if options.validation else []
    cut = _cut(questions, 0.0 if given else options.validation_share, 0.0 if tested else options.test_share)
    train, validation, test = cut[0], given or cut[1], tested or cut[2]
    if not (train and validation and test):
        raise InputError(
            f"{options.train} must have enough stories in each file to cut a validation and a test part off, got "
            f"{len({(q.path, q.start) for q in questions})}; give more, or name parts by --validation and --test"
        )
    notes = []
    if not tested:
        drawn = f"{len(test)} questions of {options.train}, of stories drawn by chance, are the test part"
        notes.append(f"no --test given: {drawn}")
    labels = sorted({question.answer for question in train})
    if len(labels) < 2:
        raise InputError(f"{options.train} must have questions of two answers at least, found only {labels[0]!r}")
    told = {sentence: None for question in train for sentence in (*question.story, question.text)}
    kind: Kind = guess_kind(told) if options.tokens == "auto" else options.tokens
    encoder = Encoder(Tokenizer(kind), Vocabulary([]), labels, options.max_sentences)
    words = Vocabulary.build(encoder.words(sentence) for sentence in told)
    encoder = Encoder(encoder.tokenizer, words, labels, options.max_sentences)
    notes += strangers(validation, labels, "validation")
    longest = max(len(question.story) for question in train)
    if options.max_sentences and longest > options.max_sentences:
        notes.append(
            f"of stories longer than {options.max_sentences} sentences, up to {longest}, the newest are read "
            "(--max-sentences)"
        )
    return Corpus(encoder, part(encoder, train), part(encoder, validation), test, notes)


def validation_questions(options: AnswerOptions) -> list[Question]:
    """Return the questions that choose the best epoch of a run with these options."""
    if options.validation:
        return _read(story_files(options.validation))
    files, tested = _files(options)
    return _cut(_read(files), options.validation_share, 0.0 if tested else options.test_share)[1]


def read_test(corpus: Corpus) -> tuple[Part, list[str]]:
    """Read the test part; return notes on what of it is learned from as well."""
    questions = [
        found for item in corpus.test for found in ([item] if isinstance(item, Question) else read_questions(item))
    ]
    notes = strangers(questions, corpus.encoder.labels, "test")
    learned = {question[:3] for question in corpus.train.questions}
    known = sum(question[:3] in learned for question in questions)
    if known:
        notes.append(f"{known} test questions are in the training file too, with story and answer")
    return part(corpus.encoder, questions), notes


def part(encoder: Encoder, questions: list[Question]) -> Part:
    """Return questions with their numbers."""
    return Part(questions, encoder(questions))


def strangers(questions: Iterable[Question], labels: Sequence[str], name: str) -> list[str]:
    """Return a note if the training part never gave the answers of some questions."""
    known = set(labels)
    count = sum(question.answer not in known for question in questions)
    return [f"{count} {name} questions have an answer that the training part never gives: they count as wrong"] * bool(
        count
    )


def _read(files: Iterable[Path]) -> list[Question]:
    return [question for path in files for question in read_questions(path)]


def _files(options: AnswerOptions) -> tuple[list[Path], list[Path]]:
    """Return the files to learn from, and those of the test part if some are named."""
    files = story_files(options.train)
    if options.test:
        return files, story_files(options.test)
    expression = compiled(options.test_pattern, "--test-pattern")
    if expression is None:
        return files, []
    tested = [path for path in files if expression.search(path.name)]
    if len(tested) in (0, len(files)):
        raise InputError(
            f"--test-pattern must fit the names of some of the {len(files)} files of {options.train} and leave others, "
            f"got {options.test_pattern!r}, which fits {'all' if tested else 'none'}, such as {files[0].name}"
        )
    return [path for path in files if path not in tested], tested


def _cut(questions: list[Question], validation: float, test: float) -> tuple[list[Question], ...]:
    """Cut questions into parts, whole stories by chance, in the same shares of each file."""
    stories = list(dict.fromkeys((question.path, question.start) for question in questions))
    files = {path: number for number, path in enumerate(dict.fromkeys(path for path, _ in stories))}
    rows = split(np.array([files[path] for path, _ in stories], dtype=np.int32), validation, test)
    which = {stories[row]: number for number, part in enumerate(rows) for row in part.tolist()}
    parts: tuple[list[Question], ...] = ([], [], [])
    for question in questions:
        parts[which[question.path, question.start]].append(question)
    return parts
