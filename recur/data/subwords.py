"""Subword tokens by byte-pair encoding: words in pieces learned from texts, and back to the same text."""

import base64
import binascii
import io
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from recur.data.sequences import Ids
from recur.errors import InputError, MissingExtra

START, END = 2, 3
"""Ids of <s> and </s>; 0 is padding and 1 unknown as in `Vocabulary`."""
SMALLEST = 320
_SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]

Blanks = Literal["collapse", "keep"]


class Subwords:
    """Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) as learned and done by sentencepiece.

    Ids 0 to 3 are <pad>, <unk>, <s> and </s>, the next 256 the single bytes, of which characters are put together that
    the training texts lack: no text has an unknown part. `decode(encode(text)) == text` but for this: the text is
    brought to the Unicode form NFC (and to small letters with `lower`), U+2581 becomes a blank, and with "collapse"
    runs of blanks become one and those at both ends go. Needs the extra `text`.

    Args:
        model: what `Subwords.build` learned, a model file of sentencepiece.
        lower: turn capital letters into small ones first.

    Raises:
        InputError: `model` is damaged, or does not have the special ids above.
        MissingExtra: sentencepiece is not installed.

    >>> subwords = Subwords.build(["der Hund schläft", "der Hund bellt"], size=330)
    >>> subwords.pieces("der Hund 😀"), subwords.decode(subwords.encode("der Hund 😀"))
    (['▁der', '▁Hund', '▁', '<0xF0>', '<0x9F>', '<0x98>', '<0x80>'], 'der Hund 😀')
    """

    def __init__(self, model: bytes, lower: bool = False) -> None:
        self.model = model
        self.lower = lower
        try:
            self._processor = _sentencepiece().SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise InputError("the model of the subwords is no sentencepiece model, or is damaged") from error
        self.tokens: list[str] = [self._processor.id_to_piece(i) for i in range(len(self._processor))]
        if self.tokens[:4] != _SPECIAL:
            raise InputError(f"the ids 0 to 3 of the subwords must be {_SPECIAL}, got {self.tokens[:4]}")

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        size: int = 8000,
        *,
        lower: bool = False,
        blanks: Blanks = "collapse",
        characters: int = 50_000_000,
    ) -> "Subwords":
        """Learn the pieces; the result is a function of the arguments alone.

        Args:
            texts: read in a stream, up to so many `characters`; a sample of a large file is enough.
            size: pieces, those of the docstring above included; fewer where the texts have no more.
            lower: turn capital letters into small ones first.
            blanks: "keep" leaves blanks as they are, for running text; a word then has one id behind a blank and
                another without.
            characters: most that are read, and held in memory.

        Raises:
            InputError: `size` is too small, or there is no text.
            MissingExtra: sentencepiece is not installed.
        """
        if size < SMALLEST:
            raise InputError(f"the number of subwords must be at least {SMALLEST}, got {size}")
        if blanks not in ("collapse", "keep"):
            raise InputError(f"`blanks` must be 'collapse' or 'keep', got {blanks!r}")
        sample = list(_up_to(characters, (_normal(text, lower) for text in texts)))
        every: Counter[str] = Counter()
        for text in sample:
            every.update(text)
        counts = Counter({c: n for c, n in every.items() if not c.isspace()})
        if not counts:
            raise InputError("expected texts to learn subwords from, found none with a character in it")
        # of very many characters the rare ones stay bytes, or there would be no room for pieces
        rare = {ord(c): " " for c, _ in counts.most_common()[(size - 260) // 2 :]}
        model = io.BytesIO()
        _sentencepiece().SentencePieceTrainer.train(
            sentence_iterator=(text.translate(rare) for text in sample) if rare else iter(sample),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=blanks == "collapse",
            remove_extra_whitespaces=blanks == "collapse",
            max_sentence_length=1 << 30,
            pad_id=0,
            unk_id=1,
            bos_id=START,
            eos_id=END,
            pad_piece="<pad>",
            num_threads=1,
            minloglevel=2,
        )
        return cls(model.getvalue(), lower)

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subwords) and (self.model, self.lower) == (other.model, other.lower)

    def __hash__(self) -> int:
        return hash((self.model, self.lower))

    def encode(self, text: str) -> Ids:
        """Return the ids of a text, int32 [T], without <s> and </s>."""
        return np.asarray(self._processor.encode(_normal(text, self.lower)), dtype=np.int32)

    def pieces(self, text: str) -> list[str]:
        """Return the same as strings; ▁ stands for the blank before a word, <0xE6> for a byte."""
        pieces: list[str] = self._processor.encode(_normal(text, self.lower), out_type=str)
        return pieces

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Return the text of some ids [T], the special ones left out; bytes that are no character become U+FFFD.

        Raises:
            InputError: an id is not one of these subwords.
        """
        chosen = [int(i) for i in ids]
        if chosen and (min(chosen) < 0 or max(chosen) >= len(self)):
            raise InputError(f"ids must be in 0..{len(self) - 1}, got {min(chosen)}..{max(chosen)}")
        text: str = self._processor.decode([i for i in chosen if i > END])
        return text

    def state(self) -> dict[str, Any]:
        """Return what `from_state` needs, as JSON has it."""
        return {"model": base64.b64encode(self.model).decode("ascii"), "lower": self.lower}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Subwords":
        """Return the subwords that `state` was taken of.

        Raises:
            InputError: it is damaged.
            MissingExtra: sentencepiece is not installed.
        """
        try:
            return cls(base64.b64decode(state["model"], validate=True), bool(state["lower"]))
        except (KeyError, TypeError, binascii.Error) as error:
            raise InputError(f"the model of the subwords is damaged: {error!r}") from error


def _normal(text: str, lower: bool) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return text.lower() if lower else text


def _up_to(characters: int, texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        if characters <= 0:
            return
        yield text[:characters]
        characters -= len(text)


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise MissingExtra("sentencepiece", "text", "byte-pair encoding") from error
    return sentencepiece
