"""From texts to the units that a transcriber writes, and back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from recur.data.sequences import Ids, Sequences
from recur.data.vocabulary import Vocabulary

Unit = Literal["character", "word"]


@dataclass(frozen=True)
class Units:
    """Characters or words; id 0, the padding of the vocabulary, is the blank."""

    vocabulary: Vocabulary
    unit: Unit
    lowercase: bool

    @classmethod
    def build(cls, texts: Iterable[str], unit: Unit, lowercase: bool, min_count: int) -> "Units":
        """Take the units of the training texts."""
        empty = cls(Vocabulary([]), unit, lowercase)
        return cls(Vocabulary.build(map(empty.tokens, texts), min_count=min_count), unit, lowercase)

    def plain(self, text: str) -> str:
        """Return a text as it is learned and scored: one blank between words, small letters if so wished."""
        text = " ".join(text.split())
        return text.lower() if self.lowercase else text

    def tokens(self, text: str) -> Sequence[str]:
        """Return the units of a text."""
        return self.plain(text).split(" ") if self.unit == "word" else list(self.plain(text))

    def ids(self, text: str) -> Ids:
        """Return the ids of a text, int32 [U]; 1 for units that the training texts lack."""
        return self.vocabulary.ids(self.tokens(text))

    def sequences(self, texts: Iterable[str]) -> Sequences:
        """Return the ids of several texts."""
        return Sequences.of(map(self.ids, texts))

    def text(self, ids: Iterable[int]) -> str:
        """Return the text of some ids, as `plain` would leave it."""
        joined = ("" if self.unit == "character" else " ").join(map(self.vocabulary.token, ids))
        return " ".join(joined.split())

    def name(self, id: int) -> str:
        """Return what a unit is called in pictures."""
        return {0: "blank", 1: "unknown"}.get(id) or self.vocabulary.token(id).replace(" ", "␣")
