"""Text files whose lines belong together, read side by side."""

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import IO

from recur.data.sources import broken_text, check_file, open_binary
from recur.errors import InputError


class AlignedFiles:
    """A line of each of several files at a time, streamed: every `for` reads them anew and holds one line of each.

    `skipped` says what was wrong with each row of lines left out, complete after the last one.

    Args:
        paths: the files, also .gz; UTF-8 with or without a byte-order mark, with the line ends of any system.
        skip_bad_rows: leave lines that cannot be read out, in all files, and note them in `skipped` instead of raising.

    Raises:
        InputError: no such file.
    """

    def __init__(self, *paths: str | Path, skip_bad_rows: bool = False) -> None:
        self.paths = [Path(path) for path in paths]
        self.skip_bad_rows = skip_bad_rows
        self.skipped: list[str] = []
        for path in self.paths:
            check_file(path)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        """Yield a line of each file, without its end.

        Raises:
            InputError: a line that is no UTF-8 (unless such ones are skipped), files of different numbers of lines,
                found at the end of the shortest one, a damaged file, or no line at all.
        """
        self.skipped = []
        number = 0
        with ExitStack() as stack:
            files = [stack.enter_context(_open(path)) for path in self.paths]
            for number, lines in enumerate(zip_longest(*files), start=1):
                if None in lines:
                    more = [(line is not None) + sum(1 for _ in file) for line, file in zip(lines, files, strict=True)]
                    raise self._uneven([number - 1 + rest for rest in more])
                problems = ((path, broken_text(line)) for path, line in zip(self.paths, lines, strict=True))
                if found := next(((path, problem) for path, problem in problems if problem), None):
                    self._bad(number, *found)
                else:
                    yield tuple(line.rstrip("\n") for line in lines)
        if number == len(self.skipped):
            bad = f"{number} bad ones ({self.skipped[0]})" if number else "none"
            raise InputError(f"{self._names}: expected lines, found {bad}; give a file with data")

    @property
    def _names(self) -> str:
        return " and ".join(map(str, self.paths))

    def _uneven(self, counts: list[int]) -> InputError:
        return InputError(
            f"{self._names} must have as many lines, got {' and '.join(f'{count:,}' for count in counts)}; find the "
            "line where they part"
        )

    def _bad(self, number: int, path: Path, problem: str) -> None:
        if not self.skip_bad_rows:
            raise InputError(
                f"{path}, line {number}: {problem}; correct it, or leave such lines out with --skip-bad-rows"
            )
        self.skipped.append(f"{path}, line {number}: {problem}")


@contextmanager
def _open(path: Path) -> Iterator[IO[str]]:
    # broken bytes become surrogates here and are found where the line is known
    with open_binary(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape") as text:
        yield text
