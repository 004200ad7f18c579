"""The options of `recur train answer`: every field is a flag, a key of the TOML file, and a line of config.json."""

from dataclasses import dataclass
from typing import Literal

from recur.errors import InputError
from recur.tasks.options import RunOptions, Schedule, require


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(RunOptions):
    """From stories with questions, in the format of the bAbI tasks, to a trained memory network."""

    train: str
    """File of stories, or folder of such files (.txt, also .gz)."""
    test_pattern: str | None = None
    """Regular expression that the names of the files of the test part hold and no others; none cuts --test-share of
    the stories off."""
    tokens: Literal["auto", "words", "characters", "jieba"] = "auto"
    """What a sentence is cut into; auto looks at the sentences: characters for Chinese, words for most others."""
    max_sentences: int | None = 130
    """Longest story that is read, in sentences; what is older is forgotten."""
    cell: tuple[str, ...] = ("gru",)
    """Recurrent cells of the hops; several are trained one after the other and compared."""
    hops: int = 2
    """How often the memory is read; 0 for no memory: the cell reads the words of story and question in a row."""
    hidden_size: int = 64
    """Width of the words' vectors, of the memory and of each hop."""
    dropout: float = 0.1
    """Share of the inputs of every hop, and of what is scored, zeroed in training."""
    epochs: int = 60
    """Most passes over the training part, or rounds of --epoch-steps."""
    batch_size: int = 64
    """Rows per step."""
    learning_rate: float = 0.003
    """Step size at the start of the schedule."""
    schedule: Schedule = "cosine"
    """Course of the learning rate: constant; cosine or linear down to 0 at the last step; plateau halves it after
    each epoch that did not improve the validation part."""

    def check(self) -> None:
        """Raise InputError for a value out of its range, naming the flag."""
        super().check()
        require(self, "max_sentences", lambda value: value >= 1, "at least 1")
        require(self, "hops", lambda value: value >= 0, "0 or greater")
        if self.test is not None and self.test_pattern is not None:
            raise InputError("--test and --test-pattern must not be given together; leave one out")
