"""The errors that recur raises on purpose: each says what was expected, what was found and what to do."""


class RecurError(Exception):
    """Base of recur's own errors; the command line prints them without a traceback."""


class InputError(RecurError, ValueError):
    """An argument or a file is not what it must be; the message names it."""


class RunError(RecurError):
    """A run folder cannot be read, written or carried on."""


class MissingExtra(RecurError, ImportError):
    """An optional dependency is not installed; the message holds the command that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package}: pip install 'recur[{extra}]'")


def nearest(name: str, choices: list[str]) -> str:
    """Return ", did you mean 'x'?" for the choice most like `name`, or an empty string."""
    import difflib

    found = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.5)
    return f", did you mean {found[0]!r}?" if found else ""
