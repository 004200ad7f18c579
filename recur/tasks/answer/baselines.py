"""What simple methods reach on the same questions: the most frequent answer, the question alone, the latest word."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

import numpy as np

from recur.data.stories import Question
from recur.tasks.answer.data import Encoder
from recur.tasks.figures import wilson
from recur.tasks.job import Baseline

Answerer = Callable[[Question], str]


def run_baselines(
    train: list[Question],
    validation: list[Question],
    test: list[Question],
    encoder: Encoder,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Baseline]:
    """Count in the training part and score the rest."""
    results = []
    for name, (description, learn) in BASELINES.items():
        progress(name)
        start = time.perf_counter()
        answer = learn(train, encoder)
        chosen, reached = (
            float(np.mean([answer(question) == question.answer for question in part])) for part in (validation, test)
        )
        interval = wilson(round(reached * len(test)), len(test))
        results.append(Baseline(name, description, chosen, reached, time.perf_counter() - start, interval))
    return results


def _majority(train: list[Question], encoder: Encoder) -> Answerer:
    most = _most(question.answer for question in train)
    return lambda question: most


def _question(train: list[Question], encoder: Encoder) -> Answerer:
    """Answer as most often for the same question, else for one of the same first two words."""
    fallback = _majority(train, encoder)
    tables = [(key, _table(train, key)) for key in (lambda q: q.text, lambda q: _opening(q, encoder))]

    def answer(question: Question) -> str:
        found = (table[key(question)] for key, table in tables if key(question) in table)
        return next(found, None) or fallback(question)

    return answer


def _latest(train: list[Question], encoder: Encoder) -> Answerer:
    """Answer with what the story names last of all answers to questions with the same first two words."""
    fallback = _question(train, encoder)
    answers: dict[str, set[str]] = defaultdict(set)
    for question in train:
        answers[_opening(question, encoder)].add(question.answer)

    def answer(question: Question) -> str:
        wanted = answers[_opening(question, encoder)]
        words = (word for sentence in reversed(question.story) for word in reversed(encoder.words(sentence)))
        return next((word for word in words if word in wanted), None) or fallback(question)

    return answer


def _opening(question: Question, encoder: Encoder) -> str:
    return " ".join(encoder.words(question.text)[:2])


def _table(train: list[Question], key: Callable[[Question], str]) -> dict[str, str]:
    """Return the most frequent answer to the questions of each key."""
    answers: dict[str, list[str]] = defaultdict(list)
    for question in train:
        answers[key(question)].append(question.answer)
    return {name: _most(found) for name, found in answers.items()}


def _most(answers: Iterable[str]) -> str:
    return Counter(answers).most_common(1)[0][0]


BASELINES: dict[str, tuple[str, Callable[[list[Question], Encoder], Answerer]]] = {
    "majority": ("always the most frequent answer of the training part", _majority),
    "question": (
        "the most frequent answer to the same question, or to one with the same first words; no story",
        _question,
    ),
    "latest": ("of the answers to questions with the same first two words, the one that the story names last", _latest),
}
"""By name: a line for a reader, and what makes a function from questions to answers of the training part."""
