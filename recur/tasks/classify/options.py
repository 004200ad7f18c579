"""The options of `recur train classify`: every field is a flag, a key of the TOML file, and a line of config.json."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from recur.errors import InputError
from recur.tasks.numbers.options import NumberOptions, asks_for_numbers
from recur.tasks.options import RunOptions, flag, require


@dataclass(frozen=True, kw_only=True)
class TextOptions(RunOptions):
    """What is asked for of texts alone."""

    text: str = "text"
    """Column of the texts."""
    skip_bad_rows: bool = False
    """Leave broken rows out and count them, instead of stopping."""
    tokens: Literal["auto", "words", "characters", "jieba"] = "auto"
    """What a text is cut into; auto looks at the texts: characters for Chinese, words for most others."""
    vocabulary: int | None = 20_000
    """The most frequent words of the training part that are kept."""
    min_count: int = 1
    """Leave words out that the training part has fewer times."""
    max_length: int | None = 400
    """Longest text in tokens; the rest is cut off."""
    keep: Literal["first", "last"] = "last"
    """Which end of a longer text is kept."""
    embedding: Literal["trained", "one-hot"] = "trained"
    """How a token becomes a vector."""
    embedding_size: int = 100
    """Width of the trained vectors; --vectors bring their own."""
    vectors: str | None = None
    """File of word vectors to start from: word2vec .bin or .txt, GloVe .txt, also .gz."""
    freeze_embedding: bool = False
    """Leave the vectors of --vectors as they are."""
    ngrams: int = 1
    """Longest run of tokens that has a hashed vector of its own, added to the words'; 1 for none."""
    ngram_buckets: int = 200_000
    """Rows of the table of these vectors."""
    evidence: int = 0
    """Longest run of tokens whose log-odds of the classes, counted in the training part, go to the network beside
    the word's vector; 0 for none."""
    evidence_buckets: int = 2**20
    """Rows of the table of these counts, for runs of each length."""
    word_dropout: float = 0.1
    """Share of the tokens taken away in training."""
    embedding_dropout: float = 0.3
    """Share of the vectors' features zeroed in training."""

    def check(self) -> None:
        """Raise InputError for a value out of its range, naming the flag."""
        super().check()
        for name in ("vocabulary", "min_count", "max_length", "embedding_size", "ngrams"):
            require(self, name, lambda value: value >= 1, "at least 1")
        for name in ("ngram_buckets", "evidence_buckets"):
            require(self, name, lambda value: value >= 1, "at least 1")
        require(self, "evidence", lambda value: value >= 0, "0 or greater")
        self.require_shares("word_dropout", "embedding_dropout")
        if self.freeze_embedding and self.vectors is None:
            raise InputError("--freeze-embedding needs --vectors: random vectors would stay random")
        if self.embedding == "one-hot" and (self.vectors is not None or self.ngrams > 1):
            given = "--vectors" if self.vectors is not None else "--ngrams"
            raise InputError(f"--embedding one-hot has no vectors to go with {given}; leave one of the two out")


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(TextOptions, NumberOptions):
    """From labelled texts or sequences of numbers to a trained classifier.

    Texts come from tables (.csv, .tsv, .jsonl, each also .gz, or .parquet). Numbers come from arrays (.npz), or from
    such tables where --series, --step-size or --numbers is given.
    """

    PATHS: ClassVar[tuple[str, ...]] = (*RunOptions.PATHS, "vectors")

    label: str = "label"
    """Column of the labels."""
    bidirectional: bool = False
    """Read each row from both ends."""
    pooling: Literal["last", "mean", "max", "concat"] = "concat"
    """What of the outputs is scored: the last, their mean or maximum, or the three side by side."""

    def check(self) -> None:
        """Raise InputError for a value out of its range, or one that is not for such data, naming the flag."""
        super().check()
        numbers = asks_for_numbers(dataclasses.asdict(self))
        shared = {f.name for f in dataclasses.fields(RunOptions)}
        for name in (f.name for f in dataclasses.fields(TextOptions if numbers else NumberOptions)):
            if name not in shared and name in self.changed():
                kinds = ("texts", "numbers") if numbers else ("sequences of numbers", "texts")
                raise InputError(
                    f"{flag(name)} is for {kinds[0]}, and {self.train} is read as one of {kinds[1]}; leave it out"
                    + ("" if numbers else ", or name the columns of numbers with --series or --step-size")
                )


@dataclass(frozen=True, kw_only=True)
class ClassifyColumns:
    """What a file of texts is read by, where it differs from the training file."""

    text: str | None = None
    """Column of the texts; that of the training file by default."""
    label: str | None = None
    """Column of the labels; that of the training file by default."""
    skip_bad_rows: bool = False
    """Leave broken rows out and count them, instead of stopping."""
