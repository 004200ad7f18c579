"""How a network that writes searches for the likeliest row: flags of `recur predict` and `recur evaluate`."""

from dataclasses import dataclass

from recur.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Search:
    """How what is written is searched for."""

    beam: int = 1
    """Width of the beam; 1 takes the most probable at every step."""

    def check(self) -> None:
        """Raise InputError for a value out of its range."""
        if self.beam < 1:
            raise InputError(f"`beam` must be at least 1, got {self.beam}")


@dataclass(frozen=True, kw_only=True)
class Decoding(Search):
    """The same where what is written has an end of its own."""

    length_penalty: float = 1.0
    """Exponent of the penalty by which a beam divides: the larger, the longer what is written."""

    def check(self) -> None:
        """Raise InputError for a value out of its range."""
        super().check()
        if not self.length_penalty >= 0:
            raise InputError(f"`length_penalty` must be 0 or greater, got {self.length_penalty}")


GREEDY = Decoding()
