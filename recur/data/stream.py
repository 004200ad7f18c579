"""Streams on disk: documents of tokens or numbers, written once, read in parallel rows, never loaded as a whole.

A file is in the safetensors format: a JSON header, `values` of all documents one after the other, and `ends`, where
each document ends. Anything that reads safetensors reads it.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import _register_namedtuple

from recur.errors import InputError
from recur.files import write_atomic

_DTYPES = {"uint8": "U8", "uint16": "U16", "int32": "I32", "int64": "I64", "float32": "F32", "float64": "F64"}
# the header has a fixed place, and the values begin on a page
_HEADER = 4096
_BUFFER = 1 << 20


class StreamFile:
    """A stream on disk; its numbers are mapped, not read.

    Args:
        path: what `write_stream` wrote.

    Raises:
        InputError: the file is missing, or not such a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size)) if 0 < size <= 1 << 20 else {}
            self.metadata: dict[str, str] = header["__metadata__"]
            if self.metadata["format"] != "recur stream 1":
                raise KeyError("format")
            self.values, self.ends = (self._map(header[name], 8 + size) for name in ("values", "ends"))
        except OSError as error:
            raise InputError(f"{self.path} could not be read: {error.strerror or error}") from error
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{self.path} is no stream written by `recur.data.write_stream`, or is damaged") from error

    def _map(self, entry: Any, start: int) -> NDArray[Any]:
        dtype = np.dtype({short: name for name, short in _DTYPES.items()}[entry["dtype"]])
        if not all(entry["shape"]):
            return np.empty(entry["shape"], dtype)
        offset = start + entry["data_offsets"][0]
        return np.memmap(self.path, dtype, "r", offset, tuple(entry["shape"]))

    def __len__(self) -> int:
        """Return how many values there are."""
        return len(self.values)

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return len(self.ends)

    def __repr__(self) -> str:
        return (
            f"StreamFile({str(self.path)!r}: {len(self):,} values of {self.values.dtype}, {self.documents:,} documents)"
        )


def write_stream(
    path: str | Path,
    documents: Iterable[Any],
    *,
    dtype: str = "int32",
    end: int | None = None,
    joined: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> StreamFile:
    """Write documents one after the other; what was at `path` is there until all of them are written.

    Args:
        path: of the file.
        documents: sequences of token ids, or of numbers [n] or [n, D]; taken one at a time.
        dtype: uint8, uint16, int32, int64, float32 or float64.
        end: an id that is put behind every document.
        joined: whether `documents` are the pieces of a single one.
        metadata: strings to keep with them, such as the name of the vocabulary.

    Raises:
        InputError: there is no value at all, a value does not fit the type, or documents differ in shape.
        RunError: the disk is full, or the folder cannot be written to.

    >>> import tempfile
    >>> stream = write_stream(tempfile.mkdtemp() + "/words.stream", [[5, 6, 7], [8, 9]], end=1)
    >>> stream.values.tolist(), stream.ends.tolist()
    ([5, 6, 7, 1, 8, 9, 1], [4, 7])
    """
    if dtype not in _DTYPES:
        raise InputError(f"`dtype` must be one of {', '.join(_DTYPES)}, got {dtype!r}")

    def write(beside: Path) -> None:
        with open(beside, "wb", buffering=_BUFFER) as file:
            _write(file, documents, np.dtype(dtype), end, joined, dict(metadata or {}))

    write_atomic(path, write)
    return StreamFile(path)


def _write(
    file: BinaryIO,
    documents: Iterable[Any],
    dtype: np.dtype[Any],
    end: int | None,
    joined: bool,
    metadata: dict[str, str],
) -> None:
    file.write(bytes(_HEADER))
    shape: tuple[int, ...] | None = None
    ends: list[int] = []
    total = 0
    last = None if end is None else _checked(np.asarray([end]), dtype, "`end`")
    for number, document in enumerate(documents):
        values = np.asarray(document)
        if not len(values):
            values = values.reshape(0, *(shape or ())).astype(dtype)
        values = _checked(values, dtype, f"document {number}")
        if shape is None and len(values):
            shape = values.shape[1:]
        if len(values) and (values.shape[1:] != shape or len(shape) > 1 or (shape and last is not None)):
            wanted = "[n] or [n, D]" if not shape else f"[n, {shape[0]}]" if last is None else "[n], as `end` is given"
            raise InputError(f"document {number} must have shape {wanted}, got {list(values.shape)}")
        file.write(values.tobytes())
        total += len(values)
        if last is not None and not joined:
            file.write(last.tobytes())
            total += 1
        ends.append(total)
    if joined and last is not None:
        file.write(last.tobytes())
        total += 1
    if joined:
        ends = [total]
    if not total:
        raise InputError("`documents` must hold at least one value, got none")
    file.write(np.asarray(ends, np.int64).tobytes())
    middle = total * dtype.itemsize * (shape[0] if shape else 1)
    header = {
        "__metadata__": {**metadata, "format": "recur stream 1"},
        "values": {"dtype": _DTYPES[dtype.name], "shape": [total, *(shape or ())], "data_offsets": [0, middle]},
        "ends": {"dtype": "I64", "shape": [len(ends)], "data_offsets": [middle, middle + 8 * len(ends)]},
    }
    text = json.dumps(header, ensure_ascii=False).encode()
    if len(text) > _HEADER - 8:
        raise InputError(f"`metadata` must be less than {_HEADER - 300} bytes, got {len(text)} with the header")
    file.seek(0)
    file.write((_HEADER - 8).to_bytes(8, "little") + text.ljust(_HEADER - 8))


def _checked(values: NDArray[Any], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    if dtype.kind == "f":
        if values.dtype.kind not in "iuf":
            raise InputError(f"{name} must hold numbers, got {values.dtype}")
        return values.astype(dtype)
    if values.dtype.kind not in "iu":
        raise InputError(f"{name} must hold whole numbers for dtype {dtype}, got {values.dtype}")
    limits = np.iinfo(dtype)
    if len(values) and not (limits.min <= int(values.min()) and int(values.max()) <= limits.max):
        found = f"{values.min()}..{values.max()}"
        raise InputError(f"{name} must hold numbers in {limits.min}..{limits.max} for dtype {dtype}, got {found}")
    return values.astype(dtype)


class Window(NamedTuple):
    """Some steps of all rows, [T, B], or [B, T] with `batch_first`; of numbers [.., D]."""

    inputs: Tensor
    """int64 for whole numbers."""
    targets: Tensor
    """The value after each input."""
    resets: Tensor
    """bool: steps that begin a document, and so are to start from a state of zeros."""


_register_namedtuple(Window, serialized_type_name="recur.data.Window")


class StreamWindows:
    """A stream as B rows that lie one behind the other, read in parallel, window by window.

    Row b begins where row b - 1 ends; the state after a window belongs before the next one. Each `iter()` is an epoch:
    `len(windows)` of them, the last one perhaps shorter. `windows[i]` is any of them, so that `recur.segmented` can go
    backwards. What is left over at the end, fewer than B values, is not read.

    The place in the epoch is part of the object: `state_dict()` between two windows and `load_state_dict()` on a new
    object go on with the window that would have come next. `iter()` after a whole epoch begins the next one, after one
    left halfway the same one again.

    Args:
        stream: a file, or its path.
        batch_size: B, rows.
        steps: T, values of a row in a window.
        batch_first: whether windows are [B, T] rather than [T, B].

    Raises:
        InputError: a size is below 1, or the stream is too short for so many rows.

    >>> import tempfile
    >>> stream = write_stream(tempfile.mkdtemp() + "/words.stream", [[1, 2, 3, 4], [5, 6, 7, 8, 9]])
    >>> windows = StreamWindows(stream, batch_size=2, steps=3, batch_first=True)
    >>> [window.inputs.tolist() for window in windows]
    [[[1, 2, 3], [5, 6, 7]], [[4], [8]]]
    >>> windows[0].targets.tolist(), windows[0].resets.tolist()
    ([[2, 3, 4], [6, 7, 8]], [[True, False, False], [True, False, False]])
    """

    def __init__(
        self, stream: StreamFile | str | Path, batch_size: int, steps: int, *, batch_first: bool = False
    ) -> None:
        for name, value in (("batch_size", batch_size), ("steps", steps)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"`{name}` must be a whole number above 0, got {value!r}")
        self.stream = stream if isinstance(stream, StreamFile) else StreamFile(stream)
        self.batch_size, self.steps, self.batch_first = batch_size, steps, batch_first
        # the last value is a target only
        self.row = (len(self.stream) - 1) // batch_size
        if self.row < 1:
            raise InputError(
                f"`batch_size` must be below the {len(self.stream)} values of {self.stream.path}, got {batch_size}"
            )
        self.epoch = 0
        self.delivered = 0
        self._resumed = False

    def __len__(self) -> int:
        return -(-self.row // self.steps)

    def __getitem__(self, number: int) -> Window:
        if not -len(self) <= number < len(self):
            raise IndexError(f"window {number} of {len(self)}")
        first = number % len(self) * self.steps
        count = min(self.steps, self.row - first)
        values, resets = [], np.zeros((self.batch_size, count), dtype=bool)
        ends = self.stream.ends
        for row in range(self.batch_size):
            start = row * self.row + first
            values.append(self.stream.values[start : start + count + 1])
            inside = ends[np.searchsorted(ends, start) : np.searchsorted(ends, start + count)]
            resets[row, inside - start] = True
            resets[row, 0] |= start == 0
        # copied here: what is mapped is not to be written to
        both = torch.from_numpy(np.stack(values).astype(np.int64 if values[0].dtype.kind in "iu" else values[0].dtype))
        window = Window(both[:, :-1], both[:, 1:], torch.from_numpy(resets))
        return window if self.batch_first else Window(*(part.transpose(0, 1).contiguous() for part in window))

    def __iter__(self) -> Iterator[Window]:
        # the caller may stop asking after the last window, so the next epoch begins here and not behind the loop
        if self.delivered >= len(self):
            self.epoch, self.delivered = self.epoch + 1, 0
        elif not self._resumed:
            self.delivered = 0
        self._resumed = False
        while self.delivered < len(self):
            self.delivered += 1
            yield self[self.delivered - 1]

    def set_epoch(self, epoch: int) -> None:
        """Let the next `iter()` begin the epoch of this number."""
        self.epoch, self.delivered, self._resumed = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch, and what it was counted in: numbers and strings."""
        return {"epoch": self.epoch, "delivered": self.delivered, "of": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place that `state_dict` returned.

        Raises:
            InputError: the place belongs to another stream or to windows of another size.
        """
        if state["of"] != self._identity():
            saved, here = (", ".join(f"{k} {v}" for k, v in x.items()) for x in (state["of"], self._identity()))
            raise InputError(
                f"the saved place in the stream belongs to {saved}, but here are {here}; resume with the data and "
                "sizes of the start, or begin anew"
            )
        self.epoch, self.delivered, self._resumed = state["epoch"], state["delivered"], True

    def _identity(self) -> dict[str, int | str]:
        values = self.stream.values
        # of a long stream the beginning and the end say enough
        sample = zlib.crc32(values[-_BUFFER:].tobytes(), zlib.crc32(values[:_BUFFER].tobytes()))
        return {
            "values": len(values),
            "documents": self.stream.documents,
            "checksum": f"{sample:08x}",
            "batch_size": self.batch_size,
            "steps": self.steps,
        }
