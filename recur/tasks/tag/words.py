"""Sentences as flat arrays of word forms and tags, their batches, and the way from forms to a network's inputs."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recur.data.batches import LengthBatches
from recur.data.sequences import Sequences, SequenceWriter
from recur.data.vocabulary import PAD, UNKNOWN, Vocabulary
from recur.models.tagger import TaggerInput

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Tagged:
    """Sentences in flat arrays: forms are numbered from 1 in the order in which they appear, tags from 0."""

    forms: list[str]
    """The distinct words as they are written; "" is form 0, the padding."""
    sentences: Sequences
    """Numbers of forms."""
    tags: Sequences
    """Numbers of tags, one for each word; empty sequences if there are none."""
    names: list[str]
    """The tags in the order of their numbers."""
    hashes: NDArray[np.int64]
    """Of each sentence's words, by which to see the same one in two files."""

    @classmethod
    def of(cls, sentences: Iterable[tuple[Sequence[str], Sequence[str]]]) -> "Tagged":
        """Gather words and tags sentence by sentence; of the text only the distinct words are held."""
        forms, names, hashes = {"": 0}, dict[str, int](), array("q")
        words, marks = SequenceWriter(), SequenceWriter()
        for sentence, tags in sentences:
            words.append(forms.setdefault(word, len(forms)) for word in sentence)
            marks.append(names.setdefault(tag, len(names)) for tag in tags)
            hashes.append(hash(tuple(sentence)))
        return cls(list(forms), words.finish(), marks.finish(), list(names), np.frombuffer(hashes, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.sentences)

    def take(self, rows: Rows) -> "Tagged":
        """Return some sentences."""
        return Tagged(self.forms, self.sentences.take(rows), self.tags.take(rows), self.names, self.hashes[rows])

    def renamed(self, names: Sequence[str]) -> "Tagged":
        """Return the same with the tags numbered as `names` are; those that are not among them come behind."""
        every = [*names, *(name for name in self.names if name not in set(names))]
        number = {name: i for i, name in enumerate(every)}
        table = np.array([number[name] for name in self.names], dtype=np.int32)
        tags = Sequences(table[self.tags.values], self.tags.offsets)
        return Tagged(self.forms, self.sentences, tags, every, self.hashes)

    def present(self) -> set[str]:
        """Return the names of the tags that some word has."""
        return {self.names[number] for number in np.unique(self.tags.values).tolist()}

    def text(self, row: int) -> list[str]:
        """Return the words of a sentence."""
        return [self.forms[form] for form in self.sentences[row]]


@dataclass(frozen=True)
class Encoder:
    """From words to ids, as the network was trained on them."""

    words: Vocabulary
    characters: Vocabulary
    tags: list[str]
    lower: bool
    """Whether words are looked up in lower case; their letters never are."""
    learned: int
    """How many of the words are those of the training part, the first ones; the others have a given vector."""
    longest: int = 40
    """Characters of a word that are read; of a longer one the first and the last."""

    @classmethod
    def of(
        cls,
        data: Tagged,
        tags: list[str],
        *,
        size: int | None,
        min_count: int,
        lower: bool,
        more: Iterable[str] = (),
    ) -> "Encoder":
        """Count the words and characters of the training part.

        Args:
            data: the training part.
            tags: the names of the tags, in order.
            size, min_count: as `Vocabulary.build`.
            lower: see the class.
            more: words that are known on top, those of given vectors.
        """
        counts, letters = Counter[str](), Counter[str]()
        often = np.bincount(data.sentences.values, minlength=len(data.forms)).tolist()
        for form, count in zip(data.forms, often, strict=True):
            if count:
                counts[form.lower() if lower else form] += count
                letters.update(form)
        known = Vocabulary.of(counts, size, min_count)
        # what is not in lower case would never be looked up
        usable = {word: None for word in more if word and word not in known and (word == word.lower() or not lower)}
        rest = [word for word in usable if word not in (PAD, UNKNOWN)]
        return cls(Vocabulary([*known.words, *rest]), Vocabulary.of(letters), tags, lower, len(known.words))

    def knows(self, forms: Sequence[str]) -> NDArray[np.bool_]:
        """Return of each form whether the training part has it."""
        ids = self.words.ids([form.lower() if self.lower else form for form in forms])
        return (ids > 1) & (ids < 2 + self.learned)

    def table(self, forms: Sequence[str]) -> "FormTable":
        """Return what a network reads of each form, "" being the padding."""
        ids = self.words.ids([form.lower() if self.lower else form for form in forms])
        ids[[i for i, form in enumerate(forms) if not form]] = 0
        return FormTable(ids, Sequences.of(self.characters.ids(self._shortened(form)) for form in forms))

    def _shortened(self, form: str) -> str:
        half = self.longest // 2
        return form if len(form) <= self.longest else form[: self.longest - half] + form[len(form) - half :]


@dataclass(frozen=True)
class FormTable:
    """What a network reads of each form: the id of the word, int32 [F], and those of its characters."""

    words: NDArray[np.int32]
    letters: Sequences

    def lay_out(self, forms: NDArray[np.int64], lengths: NDArray[np.int64]) -> TaggerInput:
        """Return a batch, each distinct form spelled once; `forms` [B, T], 0 for padding."""
        distinct, place = np.unique(forms, return_inverse=True)
        letters, letter_lengths = self.letters.padded(distinct)
        arrays = (self.words[forms].astype(np.int64), lengths, place.reshape(forms.shape), letters, letter_lengths)
        return TaggerInput(*map(torch.from_numpy, arrays))


class TagBatch(NamedTuple):
    """Some sentences, laid out for a network."""

    inputs: TaggerInput
    tags: Tensor
    """Numbers of the tags, int64 [B, T]; 0 behind the end of a sentence."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which a batch has no use for
    """Numbers of the sentences in the data, int64 [B]."""

    def first(self, rows: int) -> "TagBatch":
        """Return the first sentences alone."""
        words, lengths, spelled, *letters = self.inputs
        steps = slice(0, max(1, int(lengths[:rows].max())))
        inputs = TaggerInput(words[:rows, steps], lengths[:rows], spelled[:rows, steps], *letters)
        return TagBatch(inputs, self.tags[:rows, steps], self.index[:rows])


class TagBatches:
    """Batches of sentences of like length; order, epochs and resuming are those of `LengthBatches`.

    Args:
        data: the sentences; without tags, the batches' tags are zeros.
        table: what the network reads of each form.
        batch_size, seed, shuffle: see `LengthBatches`.
    """

    def __init__(self, data: Tagged, table: FormTable, batch_size: int, seed: int = 0, shuffle: bool = True) -> None:
        self.data, self.table = data, table
        self._batches = LengthBatches(data.sentences, None, batch_size, seed, shuffle)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[TagBatch]:
        for batch in self._batches:
            forms, lengths, rows = batch.tokens.numpy(), batch.lengths.numpy(), batch.index.numpy()
            tags, _ = self.data.tags.padded(rows)
            if tags.shape != forms.shape:
                tags = np.zeros_like(forms)
            yield TagBatch(self.table.lay_out(forms, lengths), torch.from_numpy(tags), batch.index)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch, counted from 0."""
        self._batches.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch."""
        return self._batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a place."""
        self._batches.load_state_dict(state)

    @property
    def padding_share(self) -> float:
        """The share of padding in the epoch's rectangles of words, 0..1."""
        return self._batches.padding_share
