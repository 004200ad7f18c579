"""Strings of the Reber grammar and of its embedded form, in which the end hangs on a symbol seen long before."""

import csv
import io
import random
from functools import cache
from pathlib import Path

from recur.errors import InputError, RunError
from recur.files import write_text

ALPHABET = "BTSXVPE"

# The transition diagram of Reber (1967, Implicit learning of artificial grammars), nodes numbered as in Cleeremans,
# Servan-Schreiber & McClelland (1989): in node i each of the two arcs (symbol, next node) is equally likely.
GRAMMAR: tuple[tuple[tuple[str, int], ...], ...] = (
    (("B", 1),),
    (("T", 2), ("P", 3)),
    (("S", 2), ("X", 4)),
    (("T", 3), ("V", 5)),
    (("X", 3), ("S", 6)),
    (("P", 4), ("V", 6)),
    (("E", 7),),
)
_END = len(GRAMMAR)


def reber(rng: random.Random) -> str:
    """Draw a Reber string, 5 symbols or more: a walk from B to E, both arcs of a node equally likely."""
    symbols, node = [], 0
    while node != _END:
        symbol, node = rng.choice(GRAMMAR[node])
        symbols.append(symbol)
    return "".join(symbols)


def embedded_reber(rng: random.Random) -> str:
    """Draw an embedded Reber string: B, then T or P, a Reber string, the same T or P again, and E (9 symbols or more).

    Source: Fahlman (1991), The recurrent cascade-correlation architecture; Hochreiter & Schmidhuber (1997), Long
    short-term memory, experiment 1.

    >>> embedded_reber(random.Random(3))
    'BTBPVPXVVETE'
    """
    branch = rng.choice("TP")
    return f"B{branch}{reber(rng)}{branch}E"


def is_reber(text: str) -> bool:
    """Say whether `text` is a whole string of the Reber grammar."""
    node = 0
    for symbol in text:
        if node == _END or symbol not in (arcs := dict(GRAMMAR[node])):
            return False
        node = arcs[symbol]
    return node == _END


def is_embedded_reber(text: str) -> bool:
    """Say whether `text` is a whole embedded Reber string: its second and its last but one symbol agree."""
    return (
        len(text) >= 9
        and text[0] == "B"
        and text[1] in "TP"
        and text[-2] == text[1]
        and text[-1] == "E"
        and is_reber(text[2:-2])
    )


def embedded_reber_table(n: int, seed: int, min_length: int = 12, max_length: int = 40) -> list[tuple[str, str]]:
    """Draw a balanced table of embedded Reber strings, half of them broken, for a test of memory.

    A "valid" text is an embedded Reber string, a "broken" one is the same with its last but one symbol swapped (T for
    P, P for T). The label is therefore the exclusive or of the second symbol and the last but one: no count of symbols
    or of neighbouring symbols says anything about it, alone or summed with others. Only a model that carries the
    second symbol over everything between can answer.

    Each row has its own inner string, so that no part of a table is a copy of another part. A text's length is drawn
    evenly from min_length..max_length and the inner string evenly from all Reber strings of that length; lengths of
    which all strings are used up give way to longer ones.

    Args:
        n: rows.
        seed: the table is a function of the four arguments.
        min_length: symbols of the shortest text, at least 9.
        max_length: symbols of the longest text.

    Returns:
        (text, label) pairs in random order, balanced in every four rows: TT and PP valid, TP and PT broken.

    Raises:
        InputError: a length that no text has, or fewer than `n` different strings of these lengths.

    >>> embedded_reber_table(2, seed=0, min_length=9, max_length=12)
    [('BPBTSXSEPE', 'valid'), ('BPBTSXXVVETE', 'broken')]
    """
    if not 9 <= min_length <= max_length:
        raise InputError(
            f"min_length and max_length must be 9 <= min_length <= max_length, got {min_length} and {max_length}: "
            "the shortest embedded Reber strings have 9 symbols"
        )
    room = {length: _paths(0, length - 4) for length in range(min_length, max_length + 1)}
    if n < 1 or sum(room.values()) < n:
        raise InputError(
            f"n must be in 1..{sum(room.values())}, the number of Reber strings that fit texts of {min_length}.."
            f"{max_length} symbols, got {n}; a larger max_length has more"
        )
    rng = random.Random(seed)
    inner: dict[str, None] = {}  # as an ordered set
    for _ in range(n):
        length = rng.choice([length for length, left in room.items() if left])
        while (text := _reber_of_length(length - 4, rng)) in inner:
            pass
        inner[text] = None
        room[length] -= 1
    texts = list(inner)
    rng.shuffle(texts)  # the short strings run out first and would otherwise all stand at the front
    rows = []
    for start in range(0, n, 4):
        kinds = [("T", "T"), ("P", "P"), ("T", "P"), ("P", "T")]
        rng.shuffle(kinds)
        for text, (first, last) in zip(texts[start : start + 4], kinds, strict=False):
            rows.append((f"B{first}{text}{last}E", "valid" if first == last else "broken"))
    return rows


def write_reber_files(
    folder: str | Path, n_train: int, n_test: int, seed: int, min_length: int = 12, max_length: int = 40
) -> tuple[Path, Path]:
    """Write `train.csv` and `test.csv`, two parts of one `embedded_reber_table`, with the header text,label.

    Args:
        folder: made if it is not there; files of these names in it are replaced.
        n_train: rows of train.csv.
        n_test: rows of test.csv; no inner string of it is in train.csv.
        seed: the files are a function of the numbers given.
        min_length: symbols of the shortest text.
        max_length: symbols of the longest text.

    Returns:
        The paths of the two files.

    Raises:
        InputError: as `embedded_reber_table`.
        RunError: the folder cannot be written.
    """
    rows = embedded_reber_table(n_train + n_test, seed, min_length, max_length)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"the folder {folder} cannot be made: {error.strerror}; give another one") from error
    paths = folder / "train.csv", folder / "test.csv"
    for path, part in zip(paths, (rows[:n_train], rows[n_train:]), strict=True):
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(("text", "label"))
        writer.writerows(part)
        write_text(path, buffer.getvalue())
    return paths


@cache
def _paths(node: int, length: int) -> int:
    """Count the walks of `length` symbols from `node` to the end of the grammar."""
    if node == _END or length <= 0:
        return int(node == _END and length == 0)
    return sum(_paths(after, length - 1) for _, after in GRAMMAR[node])


def _reber_of_length(length: int, rng: random.Random) -> str:
    """Draw one of all Reber strings of exactly `length` symbols, each equally likely."""
    symbols, node = [], 0
    for left in range(length - 1, -1, -1):
        arcs = GRAMMAR[node]
        symbol, node = rng.choices(arcs, [_paths(after, left) for _, after in arcs])[0]
        symbols.append(symbol)
    return "".join(symbols)
