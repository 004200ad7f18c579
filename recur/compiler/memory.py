"""Memory for large tensors that is used again and, where the system has them, made of large pages.

A fresh page costs a page fault, and a training step that takes 100 MB from the system and gives it back spends a tenth
of its time on them. Blocks come back here when the last tensor that uses them is gone.
"""

import math
import mmap
import os
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recur.errors import RecurError

LARGE = 1 << 20  # smaller ones are left to torch
IDLE = 1 << 29  # at most so many bytes wait to be used again
_STEP = 1 << 21  # a large page
_PRIVATE: dict[str, int] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}


class _Lease(np.ndarray[Any, np.dtype[np.uint8]]):
    """A block in use; it goes back to the pool when torch lets go of it."""

    _block: "mmap.mmap | None" = None

    def __del__(self) -> None:
        if self._block is not None:
            _pool.give(self._block)


class _Pool:
    """Blocks that wait, by size."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.blocks: dict[int, list[mmap.mmap]] = {}
        self.idle = 0

    def take(self, size: int) -> mmap.mmap:
        with self.lock:
            waiting = self.blocks.get(size)
            if waiting:
                self.idle -= size
                return waiting.pop()
        try:
            # private: what a forked child writes must not reach its parent
            block = mmap.mmap(-1, size, **_PRIVATE)
        except (OSError, ValueError) as error:
            raise RecurError(f"no memory for {size / 1e9:.2f} GB of states: {error}") from error
        if hasattr(mmap, "MADV_HUGEPAGE"):
            block.madvise(mmap.MADV_HUGEPAGE)
        return block

    def give(self, block: mmap.mmap) -> None:
        # a finaliser may run anywhere, even in a thread that holds the lock
        if not self.lock.acquire(blocking=False):
            return
        try:
            if self.idle + len(block) <= IDLE:
                self.blocks.setdefault(len(block), []).append(block)
                self.idle += len(block)
        finally:
            self.lock.release()


_pool = _Pool()


def _renew_lock() -> None:
    _pool.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def empty(dtype: torch.dtype, *shape: int) -> Tensor:
    """Return a tensor whose numbers are not set."""
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < LARGE:
        return torch.empty(shape, dtype=dtype)
    # steps of an eighth of the size, so that batches of nearly one size share blocks
    step = max(_STEP, 1 << (size.bit_length() - 4))
    rounded = -(-size // step) * step
    block = _pool.take(rounded)
    lease = np.frombuffer(block, np.uint8).view(_Lease)
    lease._block = block
    return torch.from_numpy(lease).view(dtype)[:count].view(shape)
