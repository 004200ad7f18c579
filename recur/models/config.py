"""What the configurations of all models share: the options of their recurrent layers, and how values are checked."""

from collections.abc import Sequence
from dataclasses import dataclass

from recur.errors import InputError, nearest
from recur.remedies import Remedies


@dataclass(frozen=True, kw_only=True)
class Config(Remedies):
    """All that a model is built from; `dataclasses.asdict` and `Config(**...)` are its JSON form."""

    def require_whole(self, **least: int) -> None:
        """Raise InputError where a field is no whole number from the given one up."""
        for name, low in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise InputError(f"{name} must be a whole number from {low} up, got {value!r}")

    def require_shares(self, *names: str) -> None:
        """Raise InputError where a field is no dropout."""
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < 1:
                raise InputError(f"{name} must be from 0 up to, not including, 1, got {value!r}")

    def require_choice(self, name: str, choices: Sequence[str]) -> None:
        """Raise InputError where a field is none of the choices."""
        value = getattr(self, name)
        if value not in choices:
            hint = nearest(str(value), list(choices))
            raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")
