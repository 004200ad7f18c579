"""The options of `recur train classify`: every field is a flag, a key of the TOML file, and a line of config.json."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recur.errors import InputError
from recur.remedies import Remedies
from recur.tasks.options import TrainingOptions, flag, require

# what may differ when a run is carried on: where things are, and how fast it goes
FREE_ON_RESUME = ("train", "test", "vectors", "out", "resume", "overwrite", "threads", "save_seconds")


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(Remedies, TrainingOptions):
    """From files of labelled text to a trained classifier.

    Paths may be `str` or `Path`, `cell` and `seed` one value or several.
    """

    train: str
    """File to learn from: .csv, .tsv, .jsonl (each also .gz) or .parquet."""
    test: str | None = None
    """File to score on, once, at the end; none cuts --test-share of the rows of --train off."""
    text: str = "text"
    """Column of the texts."""
    label: str = "label"
    """Column of the labels."""
    skip_bad_rows: bool = False
    """Leave broken rows out and count them, instead of stopping."""
    validation: float = 0.1
    """Share of the training rows, of each class alike, that choose the best epoch."""
    test_share: float = 0.2
    """Share of the rows that are the test part where no --test is given."""
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
    cell: tuple[str, ...] = ("lstm",)
    """Recurrent cells; several are trained one after the other and compared."""
    layers: int = 1
    """Recurrent layers, one on top of the other."""
    hidden_size: int = 128
    """Units of each layer and direction."""
    bidirectional: bool = False
    """Read each text from both ends."""
    pooling: Literal["last", "mean", "max", "concat"] = "concat"
    """What of the outputs is scored: the last, their mean or maximum, or the three side by side."""
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
    dropout: float = 0.3
    """Share of each layer's outputs zeroed in training."""
    seed: tuple[int, ...] = (1,)
    """Seeds of the start weights, the order and the dropouts; with several the table has means and intervals."""
    baselines: bool = True
    """Train the simple methods that the network is compared with."""
    out: str | None = None
    """Run folder; runs/NAME by default, NAME being that of the training file."""
    resume: bool = False
    """Carry the run in --out on where it was stopped; its options are those it was started with."""
    overwrite: bool = False
    """Replace the run in --out."""

    def __post_init__(self) -> None:
        for name in ("train", "test", "vectors", "out"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else os.fspath(value))
        cells = [self.cell] if isinstance(self.cell, str) else self.cell
        object.__setattr__(self, "cell", tuple(c.strip() for cell in cells for c in cell.split(",") if c.strip()))
        object.__setattr__(self, "seed", (self.seed,) if isinstance(self.seed, int) else tuple(self.seed))

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.out or Path("runs", Path(self.train).name.split(".")[0]))

    def check(self) -> None:
        """Raise InputError for a value out of its range, naming the flag."""
        super().check()
        for name in ("vocabulary", "min_count", "max_length", "layers", "hidden_size", "embedding_size", "ngrams"):
            require(self, name, lambda value: value >= 1, "at least 1")
        for name in ("ngram_buckets", "evidence_buckets"):
            require(self, name, lambda value: value >= 1, "at least 1")
        require(self, "evidence", lambda value: value >= 0, "0 or greater")
        for name in ("validation", "test_share"):
            require(self, name, lambda value: 0 < value < 1, "between 0 and 1, both left out")
        for name in ("word_dropout", "embedding_dropout", "dropout"):
            require(self, name, lambda value: 0 <= value < 1, "from 0 up to, not including, 1")
        for name in ("cell", "seed"):
            values = getattr(self, name)
            require(self, name, lambda value: len(value) > 0, "given")
            if len(set(values)) < len(values):
                raise InputError(f"{flag(name)} must name each one once, got {', '.join(map(str, values))}")
        require(self, "seed", lambda seeds: min(seeds) >= 0 and max(seeds) < 2**32, "from 0 to 4294967295")
        self.check_remedies(self.layers, flag)
        self.check_cells(self.cell, flag)
        if self.resume and self.overwrite:
            raise InputError("--resume and --overwrite must not be given together; leave one out")
        if self.freeze_embedding and self.vectors is None:
            raise InputError("--freeze-embedding needs --vectors: random vectors would stay random")
        if self.embedding == "one-hot" and (self.vectors is not None or self.ngrams > 1):
            given = "--vectors" if self.vectors is not None else "--ngrams"
            raise InputError(f"--embedding one-hot has no vectors to go with {given}; leave one of the two out")

    def plain(self) -> dict[str, Any]:
        """Return the options that make the result, as JSON has them: without --resume, --overwrite and --out."""
        values = dataclasses.asdict(self)
        for name in ("resume", "overwrite", "out"):
            del values[name]
        return values
