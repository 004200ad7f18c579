"""The options of `recur train tag`: every field is a flag, a key of the TOML file, and a line of config.json."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from recur.errors import InputError
from recur.tasks.options import RunOptions, flag, require

if TYPE_CHECKING:
    from recur.data.tagged import TagColumns

# recur.data is imported inside the methods: it needs torch, and the command line has no use for that


@dataclass(frozen=True, kw_only=True)
class TagOptions(RunOptions):
    """From files of sentences with a tag for each word to trained taggers."""

    PATHS: ClassVar[tuple[str, ...]] = (*RunOptions.PATHS, "vectors")

    format: str = "auto"
    """Format of the files: conllu, columns or jsonl; auto goes by the name: .conllu, .jsonl, else columns."""
    column: str = "upos"
    """CoNLL-U: column of the tags, such as upos, xpos, feats or deprel."""
    word_column: int = 1
    """Columns: number of the words' one, from 1."""
    tag_column: int | None = None
    """Columns: number of the tags' one, from 1; the last by default."""
    words: str = "words"
    """JSON lines: key of the list of words."""
    tags: str = "tags"
    """JSON lines: key of the list of tags."""
    skip_bad_rows: bool = False
    """Leave broken sentences out and count them, instead of stopping."""
    vocabulary: int | None = 50_000
    """The most frequent words of the training part that have a vector."""
    min_count: int = 1
    """Leave words out that the training part has fewer times."""
    lower: bool = True
    """Look words up in lower case; their letters are read as they are."""
    embedding_size: int = 100
    """Width of the words' vectors; --vectors bring their own."""
    vectors: str | None = None
    """File of word vectors to start from: word2vec .bin or .txt, GloVe .txt, also .gz."""
    freeze_embedding: bool = False
    """Leave the vectors of --vectors as they are."""
    characters: bool = True
    """Read each word letter by letter as well."""
    character_size: int = 32
    """Width of the characters' vectors."""
    character_hidden: int = 100
    """Units in each direction of the layer that reads letters."""
    bidirectional: bool = True
    """Read each sentence from both ends."""
    crf: bool = False
    """Score whole sequences of tags, with a number for each tag behind another, instead of each tag by itself."""
    hidden_size: int = 200
    """Units of each layer and direction over the words."""
    word_dropout: float = 0.2
    """Share of the words replaced by the unknown one in training, so that their letters must say."""
    embedding_dropout: float = 0.4
    """Share of the inputs' features zeroed in training, the same ones all along a sentence."""
    dropout: float = 0.5
    """Share of each layer's outputs zeroed in training."""
    epochs: int = 15
    """Most passes over the training part."""
    learning_rate: float = 0.003
    """Step size at the start of the schedule."""
    average: float = 0.998
    """Decay of a running average of the weights that is validated and kept; 0 for none."""

    def check(self) -> None:
        """Raise InputError for a value out of its range, naming the flag."""
        from recur.data.tagged import check_columns

        super().check()
        for name in ("vocabulary", "min_count", "embedding_size", "character_size", "character_hidden"):
            require(self, name, lambda value: value >= 1, "at least 1")
        self.require_shares("word_dropout", "embedding_dropout")
        check_columns(self, flag)
        if self.freeze_embedding and self.vectors is None:
            raise InputError("--freeze-embedding needs --vectors: random vectors would stay random")

    @property
    def columns(self) -> "TagColumns":
        """Where words and tags stand in the files."""
        from recur.data.tagged import TagColumns

        return TagColumns(self.format, self.column, self.word_column, self.tag_column, self.words, self.tags)


@dataclass(frozen=True, kw_only=True)
class TagFile:
    """How a file of sentences is read, where it differs from the training file."""

    format: str | None = None
    """Format of the file: conllu, columns or jsonl, or auto to go by its name; to predict also text, a sentence in each
    line, which is what a .txt file is taken for."""
    column: str | None = None
    """CoNLL-U: column of the tags."""
    word_column: int | None = None
    """Columns: number of the words' one, from 1."""
    tag_column: int | None = None
    """Columns: number of the tags' one, from 1."""
    words: str | None = None
    """JSON lines: key of the list of words."""
    tags: str | None = None
    """JSON lines: key of the list of tags."""
    skip_bad_rows: bool = False
    """Leave broken sentences out and count them, instead of stopping."""
