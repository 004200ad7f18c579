"""Streams on disk: what is written is read, in rows, windows and documents, and nothing else is accepted."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from recur import InputError
from recur.data import StreamFile, StreamWindows, Window, write_stream


def written(path: Path, lengths: list[int], **options: object) -> StreamFile:
    """Documents of these lengths, which count on from 0."""
    starts = np.cumsum([0, *lengths])
    return write_stream(path / "stream", [list(range(a, b)) for a, b in pairwise(starts)], **options)


def test_a_stream_is_read_as_it_was_written(tmp_path: Path):
    stream = write_stream(
        tmp_path / "s", iter([[3, 4], np.array([5], np.uint8), [], torch.tensor([6, 7])]), dtype="uint16"
    )
    assert (stream.values.tolist(), stream.ends.tolist()) == ([3, 4, 5, 6, 7], [2, 3, 3, 5])
    assert (len(stream), stream.documents, stream.values.dtype) == (5, 4, np.uint16)
    assert "5 values of uint16, 4 documents" in repr(stream)
    assert isinstance(stream.values, np.memmap)
    # any reader of safetensors reads it
    assert load_file(tmp_path / "s")["values"].tolist() == [3, 4, 5, 6, 7]


def test_an_end_and_metadata_are_kept(tmp_path: Path):
    stream = write_stream(tmp_path / "s", [[5], [6, 7]], end=2, metadata={"vocabulary": "words.json"})
    assert (stream.values.tolist(), stream.ends.tolist()) == ([5, 2, 6, 7, 2], [2, 5])
    assert StreamFile(tmp_path / "s").metadata["vocabulary"] == "words.json"


def test_windows_are_rows_that_lie_behind_each_other(tmp_path: Path):
    stream = written(tmp_path, [4, 7, 1, 11])
    for first in (False, True):
        windows = StreamWindows(stream, batch_size=3, steps=3, batch_first=first)
        parts = list(windows)
        assert len(parts) == len(windows) == 3
        joined = [torch.cat(values, dim=1 if first else 0) for values in zip(*parts, strict=True)]
        inputs, targets, resets = joined if first else [value.T for value in joined]
        # 23 values: three rows of 7, a target behind each, one left over
        assert inputs.tolist() == [list(range(7 * row, 7 * row + 7)) for row in range(3)]
        assert torch.equal(targets, inputs + 1)
        assert inputs[resets].tolist() == [0, 4, 11, 12]
        assert inputs.dtype == torch.int64
        assert [part.inputs.shape[1 if first else 0] for part in parts] == [3, 3, 1]
        assert torch.equal(windows[-1].inputs, parts[2].inputs)


def test_numbers_come_as_vectors(tmp_path: Path):
    x = np.random.default_rng(0).normal(size=(9, 2))
    stream = write_stream(tmp_path / "s", [x[:5], x[5:]], dtype="float64")
    window = StreamWindows(stream, batch_size=2, steps=4)[0]
    assert (window.inputs.shape, window.inputs.dtype) == ((4, 2, 2), torch.float64)
    assert np.array_equal(window.inputs[:, 1], x[4:8])
    assert np.array_equal(window.targets[:, 0], x[1:5])
    assert window.resets.nonzero().tolist() == [[0, 0], [1, 1]]


def values(windows: StreamWindows) -> Iterator[list[int]]:
    return (window.inputs.flatten().tolist() for window in windows)


def test_the_place_is_kept_and_goes_on(tmp_path: Path):
    stream = written(tmp_path, [50])
    windows, again = (StreamWindows(stream, 2, 5) for _ in range(2))
    whole = list(values(windows))
    part = values(windows)
    first = [next(part) for _ in range(2)]
    assert windows.state_dict()["epoch"] == 1
    again.load_state_dict(json.loads(json.dumps(windows.state_dict())))
    assert first + list(values(again)) == whole
    assert again.epoch == 1
    # after a whole epoch comes the next one
    assert list(values(again)) == whole
    assert again.epoch == 2
    with pytest.raises(InputError, match=r"belongs to values 50, .* steps 5, but here are .* steps 6"):
        StreamWindows(stream, 2, 6).load_state_dict(windows.state_dict())


def test_what_was_there_stays_until_all_is_written(tmp_path: Path):
    write_stream(tmp_path / "s", [[1, 2, 3]])

    def failing() -> Iterator[list[int]]:
        yield [4] * 100_000
        raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        write_stream(tmp_path / "s", failing())
    assert StreamFile(tmp_path / "s").values.tolist() == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_stream_larger_than_what_is_read_is_not_loaded(tmp_path: Path):
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("memory is read from /proc")

    def own() -> int:
        # pages of the file that are mapped belong to the system's cache
        return (
            int(next(line for line in status.read_text().splitlines() if line.startswith("RssAnon")).split()[1]) * 1024
        )

    block = np.zeros(1 << 20, np.int32)
    stream = write_stream(tmp_path / "s", (block for _ in range(30)))  # 126 MB
    windows = StreamWindows(stream, 8, 100)
    before = own()
    for number in range(0, len(windows), len(windows) // 50):
        windows[number]
    assert own() - before < 20e6


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ([], {}, "`documents` must hold at least one value, got none"),
        ([[]], {}, "at least one value"),
        ([[1], [70_000]], {"dtype": "uint16"}, r"document 1 must hold numbers in 0\.\.65535 .* got 70000\.\.70000"),
        ([[1.5]], {}, "document 0 must hold whole numbers for dtype int32, got float64"),
        ([["a"]], {"dtype": "float32"}, "document 0 must hold numbers, got <U1"),
        ([[[1.0, 2.0]], [3.0]], {"dtype": "float32"}, r"document 1 must have shape \[n, 2\], got \[1\]"),
        ([[1]], {"dtype": "float16"}, "`dtype` must be one of uint8, .* got 'float16'"),
        ([[1]], {"end": -1, "dtype": "uint8"}, r"`end` must hold numbers in 0\.\.255"),
        ([[1]], {"metadata": {"notes": "x" * 5000}}, "`metadata` must be less than"),
    ],
)
def test_what_is_no_stream_is_not_written(tmp_path: Path, documents, options, message):
    with pytest.raises(InputError, match=message):
        write_stream(tmp_path / "s", documents, **options)
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="could not be read: No such file"):
        StreamFile(tmp_path / "none")
    stream = written(tmp_path, [2000])
    cut = tmp_path / "cut"
    cut.write_bytes(stream.path.read_bytes()[:5000])
    (tmp_path / "text").write_text("not this")
    (tmp_path / "empty").touch()
    for name in ("cut", "text", "empty"):
        with pytest.raises(
            InputError, match=f"{name} is no stream written by `recur.data.write_stream`, or is damaged"
        ):
            StreamFile(tmp_path / name)


def test_sizes_are_checked(tmp_path: Path):
    stream = written(tmp_path, [5])
    with pytest.raises(InputError, match="`steps` must be a whole number above 0, got 0"):
        StreamWindows(stream, 1, 0)
    with pytest.raises(InputError, match=r"`batch_size` must be below the 5 values of .*stream, got 5"):
        StreamWindows(stream.path, 5, 1)
    with pytest.raises(IndexError, match="window 4 of 4"):
        StreamWindows(stream, 1, 1)[4]
    assert isinstance(StreamWindows(stream, 4, 1)[0], Window)
