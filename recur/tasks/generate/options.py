"""The options of `recur train generate`: every field is a flag, a key of the TOML file, and a line of config.json."""

from dataclasses import dataclass
from typing import Literal

from recur.errors import InputError
from recur.tasks.options import RunOptions, flag, require


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(RunOptions):
    """From any text file to a trained language model."""

    train: str
    """Text to learn from, in UTF-8, also .gz."""
    validation: str | None = None
    """Text that chooses the best epoch; none cuts --validation-share of --train off, before the test part."""
    validation_share: float = 0.05
    """Share of --train, by characters, that chooses the best epoch where no --validation is given."""
    test: str | None = None
    """Text to score on, once, at the end; none cuts --test-share off the end of --train."""
    test_share: float = 0.05
    """Share of --train, by characters, that is the test part where no --test is given."""
    tokens: Literal["characters", "words", "spaces", "bpe"] = "characters"
    """What a text is cut into: characters; words and punctuation marks; what stands between blanks; or subwords."""
    lower: bool = False
    """Turn capital letters into small ones first."""
    vocabulary: int | None = None
    """The most frequent tokens of the training part that are kept, none for all; for bpe how many are learned."""
    min_count: int = 1
    """Leave tokens out that the training part has fewer times."""
    steps: int = 64
    """Tokens that a gradient goes back through; the state is carried on beyond them."""
    layers: int = 2
    """Recurrent layers, one on top of the other."""
    hidden_size: int = 256
    """Units of each layer."""
    embedding_size: int | None = None
    """Width of the tokens' vectors; none for that of the layers."""
    tied: bool = False
    """Score a token by the vector that it is read with."""
    word_dropout: float = 0.0
    """Share of the vocabulary whose vectors are zeroed for a window, in training."""
    embedding_dropout: float = 0.0
    """Share of the vectors' features zeroed in training, the same ones all along a window."""
    dropout: float = 0.2
    """Share of a layer's outputs zeroed before the next layer, in training, all along a window."""
    output_dropout: float = 0.2
    """Share of the last layer's outputs zeroed before the scores, in training, all along a window."""
    heads: int = 8
    """Of the cell ttt: its inner models, of --hidden-size / --heads features each."""
    mini_batch: int = 16
    """Of the cell ttt: tokens whose inner gradients are taken at the same weights."""
    activation_penalty: float = 0.0
    """Weight of the mean square of the last layer's outputs, after dropout, in what training lowers."""
    change_penalty: float = 0.0
    """Weight of the mean square of their change from step to step."""
    learning_rate: float = 0.003
    """Step size at the start of the schedule."""
    schedule: Literal["constant", "cosine", "linear", "plateau"] = "cosine"
    """Course of the learning rate: constant; cosine or linear down to 0 at the last step; plateau halves it after
    each epoch that did not improve the validation part."""
    clip_global_norm: float | None = 1.0
    """Scale all gradients together to a 2-norm of at most x."""
    average: float = 0.998
    """Decay of a running average of the weights, such as 0.999, that is validated and kept; 0 for none."""
    ngram: int | None = None
    """Longest n-gram of the model to compare with; 7 for characters and 5 for other tokens by default."""

    def check(self) -> None:
        """Raise InputError for a value out of its range, naming the flag."""
        super().check()
        for name in ("vocabulary", "min_count", "steps", "embedding_size"):
            require(self, name, lambda value: value >= 1, "at least 1")
        require(self, "ngram", lambda value: 2 <= value <= 12, "from 2 to 12")
        for name in ("activation_penalty", "change_penalty"):
            require(self, name, lambda value: value >= 0, "0 or greater")
        self.require_shares("word_dropout", "embedding_dropout", "output_dropout")
        require(self, "mini_batch", lambda value: value >= 1, "at least 1")
        if "ttt" in self.cell:
            self.check_no_cell("ttt", flag)
            if not 1 <= self.heads < self.hidden_size or self.hidden_size % self.heads:
                wanted = f"divide --hidden-size {self.hidden_size} into at least 2 features each"
                raise InputError(f"--heads must {wanted}, got {self.heads}")
        cut = (0 if self.validation else self.validation_share) + (0 if self.test else self.test_share)
        if cut >= 1:
            raise InputError(f"--validation-share and --test-share must leave something to learn from, got {cut:g}")


@dataclass(frozen=True)
class Sampling:
    """How a text is written."""

    length: int = 500
    """How many tokens to write."""
    temperature: float = 0.8
    """0 takes the likeliest token; below 1 the likely ones gain, above 1 the others."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only."""
    top_p: float | None = None
    """Draw from the fewest tokens that together are at least so probable."""
    seed: int = 1
    """Of the draws."""
