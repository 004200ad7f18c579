"""From a text to its tokens: words, characters, or the words of Chinese text."""

import html
import logging
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Literal, get_args

from recur.errors import InputError, MissingExtra, nearest

Kind = Literal["words", "characters", "jieba"]
GUESSED_BY = 1000
"""So many texts tell which tokenizer fits."""


@dataclass(frozen=True)
class Tokenizer:
    """Splits a text into tokens; called with a text, it returns a list of them.

    "words" leaves out HTML tags, keeps every punctuation mark as a token of its own and splits contractions as the
    Penn treebank and GloVe do: don't -> do n't, it's -> it 's. "characters" takes each character, a run of white space
    as one blank. "jieba" finds the words of Chinese text (needs the extra `text`).

    Args:
        kind: one of the three above.
        lower: turn capital letters into small ones first.
        ngrams: append every run of 2, 3, ... up to this many neighbouring tokens, joined, as tokens of their own.

    Raises:
        InputError: another kind, or `ngrams` below 1.
        MissingExtra: jieba is not installed; raised by the call.

    >>> Tokenizer("words")("It wasn't <br />good!")
    ['it', 'was', "n't", 'good', '!']
    >>> Tokenizer("characters", ngrams=2)("我爱你")
    ['我', '爱', '你', '我爱', '爱你']
    """

    kind: Kind
    lower: bool = True
    ngrams: int = 1

    def __post_init__(self) -> None:
        kinds = list(get_args(Kind))
        if self.kind not in kinds:
            raise InputError(
                f"the tokenizer must be one of {', '.join(kinds)}, got {self.kind!r}{nearest(self.kind, kinds)}"
            )
        if self.ngrams < 1:
            raise InputError(f"ngrams must be at least 1, got {self.ngrams}")

    def __call__(self, text: str) -> list[str]:
        """Return the tokens of `text`, first to last."""
        if self.lower:
            text = text.lower()
        if not text.isascii():
            text = unicodedata.normalize("NFC", text)  # one spelling of é, so that it is one word
        if self.kind == "words":
            tokens = _words(text)
        elif self.kind == "characters":
            tokens = list(" ".join(text.split()))
        else:
            tokens = [token for token in _jieba()(text) if not token.isspace()]
        if self.ngrams == 1:
            return tokens
        join = ("" if self.kind == "characters" else " ").join
        runs = (zip(*(tokens[start:] for start in range(n)), strict=False) for n in range(2, self.ngrams + 1))
        return tokens + [join(run) for same_length in runs for run in same_length]


def guess_kind(texts: Iterable[str]) -> Kind:
    """Choose a tokenizer by the look of the first 1,000 texts.

    Returns:
        "characters" if most letters are Chinese or Japanese, or if hardly any text (1 in 10) has a blank in it: names,
        codes and grammar strings would each be one word otherwise. "words" in all other cases.

    >>> guess_kind(["我爱你", "这部电影很好看"]), guess_kind(["BTXSE"]), guess_kind(["good film", "bad"])
    ('characters', 'characters', 'words')
    """
    letters = han = blanks = rows = 0
    for text in islice(texts, GUESSED_BY):
        rows += 1
        blanks += len(text.split(maxsplit=1)) > 1
        letters += sum(map(str.isalpha, text))
        han += len(_HAN.findall(text))
    return "characters" if rows and (2 * han > letters or 10 * blanks <= rows) else "words"


_HAN = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")
_DOTS = re.compile(r"\.{2,}")
_DASHES = re.compile(r"-{2,}")
_PLAIN = {"‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "—": "--"}
_WORD = r"n't\b|'(?:s|m|d|re|ve|ll)\b|\d+(?:[.,]\d+)+|[\w{marks}]+|\.\.\.|--|[^\w\s]"
_ASCII_WORD = re.compile(_WORD.format(marks=""), re.ASCII | re.IGNORECASE)


def _words(text: str) -> list[str]:
    if "<" in text:
        text = _TAG.sub(" ", text)
    if "&" in text:
        text = html.unescape(text)
    pattern = _ASCII_WORD
    if not text.isascii():
        pattern = _any_word()
        for mark, plain in _PLAIN.items():
            text = text.replace(mark, plain)
    # runs of one length, or each length of "....." would be a word of its own
    if ".." in text:
        text = _DOTS.sub(" ... ", text)
    if "--" in text:
        text = _DASHES.sub(" -- ", text)
    return pattern.findall(text.replace("n't", " n't").replace("N'T", " N'T").replace("_", " "))


@cache
def _any_word() -> re.Pattern[str]:
    # vowel signs and accents stand beside letters and are not \w: without them Hindi or Thai words fall to pieces
    marks = [chr(code) for code in range(0x300, 0x11000) if unicodedata.category(chr(code))[0] == "M"]
    return re.compile(_WORD.format(marks="".join(marks)), re.IGNORECASE)


@cache
def _jieba() -> Callable[[str], list[str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its string escapes are those of an older Python
            import jieba
    except ImportError as error:
        raise MissingExtra("jieba", "text", "the tokenizer jieba") from error
    jieba.setLogLevel(logging.WARNING)
    cut: Callable[[str], list[str]] = jieba.Tokenizer().lcut
    return cut
