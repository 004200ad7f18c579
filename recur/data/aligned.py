"""Two text files whose lines belong together, read side by side."""

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import IO

from recur.data.sources import broken_text, check_file, open_binary
from recur.errors import InputError


class AlignedFiles:
    """Pairs of lines, streamed: every `for` reads both files anew and holds one pair at a time.

    `skipped` says what was wrong with each pair left out, complete after the last one.

    Args:
        source, target: the files, also .gz; UTF-8 with or without a byte-order mark, with the line ends of any system.
        skip_bad_rows: leave pairs that cannot be read out and note them in `skipped` instead of raising.

    Raises:
        InputError: no such file.
    """

    def __init__(self, source: str | Path, target: str | Path, *, skip_bad_rows: bool = False) -> None:
        self.paths = Path(source), Path(target)
        self.skip_bad_rows = skip_bad_rows
        self.skipped: list[str] = []
        for path in self.paths:
            check_file(path)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield a line of each file, without its end.

        Raises:
            InputError: a line that is no UTF-8 (unless such ones are skipped), files of different numbers of lines,
                found at the end of the shorter one, a damaged file, or no line at all.
        """
        self.skipped = []
        number = 0
        with ExitStack() as stack:
            files = [stack.enter_context(_open(path)) for path in self.paths]
            for number, (source, target) in enumerate(zip_longest(*files), start=1):
                if source is None or target is None:
                    longer = number + sum(1 for file in files for _ in file)
                    raise self._uneven(*((number - 1, longer) if source is None else (longer, number - 1)))
                problems = ((path, broken_text(line)) for path, line in zip(self.paths, (source, target), strict=True))
                if found := next(((path, problem) for path, problem in problems if problem), None):
                    self._bad(number, *found)
                else:
                    yield source.rstrip("\n"), target.rstrip("\n")
        if number == len(self.skipped):
            bad = f"{number} bad ones ({self.skipped[0]})" if number else "none"
            raise InputError(f"{self.paths[0]} and {self.paths[1]}: expected lines, found {bad}; give files with data")

    def _uneven(self, source: int, target: int) -> InputError:
        return InputError(
            f"{self.paths[0]} and {self.paths[1]} must have as many lines, each a pair, got {source:,} and {target:,}; "
            "find the line where they part"
        )

    def _bad(self, number: int, path: Path, problem: str) -> None:
        if not self.skip_bad_rows:
            raise InputError(
                f"{path}, line {number}: {problem}; correct it, or leave such pairs out with --skip-bad-rows"
            )
        self.skipped.append(f"{path}, line {number}: {problem}")


@contextmanager
def _open(path: Path) -> Iterator[IO[str]]:
    # broken bytes become surrogates here and are found where the line is known
    with open_binary(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape") as text:
        yield text
