"""Parts cut by chance in which rows of one group stay together, so that no part has met another's."""

import hashlib

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def group_of(text: str) -> int:
    """Return a number of 64 bits for what a row belongs to, by chance but always the same."""
    return int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=8).digest(), "little")


def split(groups: NDArray[np.uint64], validation: float, test: float) -> tuple[Rows, Rows, Rows]:
    """Cut rows into training, validation and test part; rows of one group stay together.

    The cut is a function of the arguments alone: runs with other seeds have the same parts.

    Args:
        groups: what each row belongs to [n], numbers without an order, such as those of `group_of`; the smallest are
            the test part.
        validation: share of what is no test part, may be 0.
        test: share, may be 0.

    Returns:
        The row numbers of each part, rising.
    """
    ordered = np.sort(groups)
    part = np.zeros(len(groups), dtype=np.uint8)
    taken = 0
    for which, share in ((2, test), (1, validation)):
        left = len(groups) - taken
        if share and left:
            last = ordered[taken + max(1, round(share * left)) - 1]
            part[(groups <= last) & (part == 0)] = which
            taken = int(np.count_nonzero(part))
    train, valid, tested = (np.flatnonzero(part == i) for i in range(3))
    return train, valid, tested
