"""A trained memory network: its answers, its scores on other stories, and rows to look at its gradients on."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recur.data.stories import Question, StoryBatches, read_questions, story_files
from recur.errors import InputError
from recur.models.memory import MemoryNetwork
from recur.tasks.answer.data import Encoder, part, strangers, validation_questions
from recur.tasks.answer.model import AnswerObjective, probabilities, reads
from recur.tasks.answer.options import AnswerOptions
from recur.tasks.answer.scores import AnswerScores, score, scores_text
from recur.tasks.job import Example, Predictor, evenly
from recur.tasks.options import make_options

LONGEST = 4  # rows whose Jacobians are taken, the longest ones
_SENTENCE = re.compile(r"[^.?!。？！]*[.?!。？！]+|[^.?!。？！]+")


@dataclass(frozen=True)
class Reply:
    """What a network says to a question."""

    answer: str
    """The most probable answer."""
    probability: float
    """Its probability."""
    reads: list[list[float]]
    """What each pass (hop 1 forward, hop 1 backward, hop 2 forward ...) takes of each sentence, shares of 1."""


class AnswerPredictor(Predictor):
    """A trained memory network.

    Args:
        folder, config, model: as for every predictor.
        encoder: from questions to numbers.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], model: MemoryNetwork, encoder: Encoder) -> None:
        super().__init__(folder, config, model)
        self.encoder = encoder

    def predict(self, texts: Iterable[str | Question], batch_size: int = 64) -> list[Reply]:
        """Answer questions.

        Args:
            texts: of each its story and, as last sentence, the question; or what `recur.data.stories.read_questions`
                yields.
            batch_size: questions at a time.

        Raises:
            InputError: `texts` is a single text, or one is empty.
        """
        if isinstance(texts, str):
            raise InputError("`texts` must be several texts, got a single one; put it into a list: [text]")
        stories = self.encoder(text if isinstance(text, Question) else as_question(text) for text in texts)
        guesses = probabilities(self.model, stories, batch_size)
        return [
            Reply(self.encoder.labels[int(guess.argmax())], float(guess.max()), shares.round(4).tolist())
            for guess, shares in zip(guesses, reads(self.model, stories), strict=True)
        ]

    def items(self, file: str | Path) -> Iterator[Question]:
        """Yield the questions of a file or folder; answers are not needed."""
        return (question for path in story_files(file) for question in read_questions(path, answered=False))

    def line(self, item: str | Question, answer: Reply) -> str:
        """Return answer, probability and question between tabs."""
        return f"{answer.answer}\t{answer.probability:.4f}\t{_asked(item).text}"

    def json(self, item: str | Question, answer: Reply) -> dict[str, Any]:
        """Return an answer as JSON."""
        question = _asked(item)
        return {"story": question.story, "question": question.text} | dataclasses.asdict(answer)

    def evaluate(self, path: str | Path) -> AnswerScores:
        """Score the network on the questions of a file or folder.

        Raises:
            InputError: a file cannot be read, or a question has no answer.
        """
        questions = [question for file in story_files(path) for question in read_questions(file)]
        one = part(self.encoder, questions)
        scores = score(probabilities(self.model, one.stories), one)
        notes = (*strangers(questions, self.encoder.labels, "of the"), *self.warn_if_learned(path))
        return dataclasses.replace(scores, notes=notes)

    def shown(self, scores: AnswerScores) -> str:
        """Return accuracy and loss, and the accuracy in each file."""
        return scores_text(scores)

    def example(self, file: Path | None, rows: int) -> Example:
        """Return questions at even distances through a file or folder, or through the run's validation part.

        Raises:
            InputError: a file cannot be read, a question has no answer, or the run's own file is gone or was changed.
        """
        questions = self._validation() if file is None else list(self.items(file))
        chosen = [questions[row] for row in evenly(len(questions), rows).tolist()]
        for question in chosen:
            if question.answer not in self.encoder.labels:
                found = repr(question.answer) if question.answer else "none"
                raise InputError(
                    f"{question.path}, line {question.line}: expected an answer that the network knows, found {found}"
                )
        stories = self.encoder(chosen)
        (batch,) = StoryBatches(stories, len(chosen), seed=0, shuffle=False)
        order = torch.argsort(batch.lengths, descending=True, stable=True).tolist()
        longest = [row for row in order[:LONGEST] if batch.lengths[row] >= 2]
        if not longest:
            raise InputError(f"{file}: one of the {len(chosen)} stories must have 2 sentences or more, got 1 in each")
        return Example(*AnswerObjective(self.model).probe(batch, len(chosen)), longest)

    def _validation(self) -> list[Question]:
        """Return the questions that chose the best epoch."""
        self.own_file(self.validation_file)
        return validation_questions(make_options(AnswerOptions, self.options, str(self.folder / "config.json")))


def as_question(text: str) -> Question:
    """Return a text as a question: its last sentence is asked, those before are its story.

    Raises:
        InputError: there is no sentence in it.
    """
    sentences = [sentence for found in _SENTENCE.findall(text) if (sentence := found.strip())]
    if not sentences:
        raise InputError(f"a text must be sentences of which the last is the question, got {text!r}")
    return Question(tuple(sentences[:-1]), sentences[-1], "", Path(), 0, 0)


def _asked(item: str | Question) -> Question:
    return item if isinstance(item, Question) else as_question(item)
