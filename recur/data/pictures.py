"""Pictures: files and folders of frames, their pixels in one array, and batches of them with rows of ids."""

import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recur.data.batches import ByLength
from recur.data.mapped import Mapped
from recur.data.sequences import Sequences
from recur.data.sources import check_file
from recur.errors import InputError, MissingExtra, RunError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
IN_MEMORY = 1 << 28
"""Bytes of pixels that are held in memory: 256 MB."""
MOST_PIXELS = 1 << 26

Pixels = NDArray[np.uint8]


class PictureForm(NamedTuple):
    """What all pictures of a network are like."""

    colours: int
    """1 for grey, 3 for colour."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""

    @property
    def size(self) -> str:
        """Height and width, as a person writes them."""
        return f"{self.height}x{self.width}"


def frame_files(path: str | Path) -> list[Path]:
    """Return a picture's file, or the files of the frames in a folder: by name, numbers in names by their value.

    Raises:
        InputError: nothing there, or a folder without pictures.
    """
    path = Path(path)
    if not path.is_dir():
        check_file(path)
        return [path]
    found = [file for file in path.iterdir() if file.suffix.lower() in PICTURES and not file.name.startswith(".")]
    if not found:
        raise InputError(f"{path} must hold frames, files that end in {', '.join(PICTURES)}, found none")
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part) if part[:1].isdecimal() else -1, part) for part in parts]


def picture_form(path: str | Path) -> PictureForm:
    """Return size and colours of a picture; its head alone is read.

    Raises:
        InputError: no picture, or one of other than 8 bits a colour.
        MissingExtra: pillow is not installed.
    """
    with _opened(path) as image:
        _check(path, image)
        return PictureForm(1 if image.mode in ("1", "L", "LA") else 3, image.height, image.width)


def read_picture(path: str | Path, form: PictureForm, *, resize: bool = False) -> Pixels:
    """Return the pixels [C, H, W] of a picture, in the colours of `form`; transparency is dropped.

    Args:
        path: the file; of several pictures in it the first is read.
        form: what is returned.
        resize: bring it to that size (bilinear); else it must have it.

    Raises:
        InputError: no picture, a damaged one, one of other than 8 bits a colour, or of another size.
        MissingExtra: pillow is not installed.
    """
    with _opened(path) as image:
        _check(path, image)
        if not resize and (image.height, image.width) != form[1:]:
            raise InputError(
                f"{path} must have {form.size} pixels, height x width, as the other pictures, got "
                f"{image.height}x{image.width}; bring all to one size with --size {form.size}"
            )
        try:
            read = image.convert("L" if form.colours == 1 else "RGB")
            if resize:
                read = read.resize((form.width, form.height), resample=2)  # bilinear
        except Exception as error:  # pillow's readers raise what they like at a damaged file
            raise InputError(f"{path} is a damaged picture: {error}; take it out, or fetch it again") from error
        pixels: Pixels = np.asarray(read, dtype=np.uint8).reshape(form.height, form.width, form.colours)
        return pixels.transpose(2, 0, 1)


def _opened(path: str | Path) -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtra("pillow", "image", "Reading pictures") from error
    check_file(Path(path))
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        raise InputError(f"{path} must be a picture, such as PNG or JPEG, found something else") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} must be a picture, such as PNG or JPEG, found: {error}") from error


def _check(path: str | Path, image: Any) -> None:
    if image.mode[:1] in "IF":
        raise InputError(f"{path} must have 8 bits a colour, found the mode {image.mode}; convert it")
    if image.width * image.height > MOST_PIXELS:
        raise InputError(f"{path} must have {MOST_PIXELS:,} pixels at most, found {image.height}x{image.width}")


class Clips:
    """Pictures and clips of one size: clip i is the frames `values[offsets[i] : offsets[i + 1]]`, [T, C, H, W].

    Args:
        values: all frames, uint8 [N, C, H, W], a byte for each colour of a pixel, in memory or mapped from a file.
        offsets: where each clip starts, and N at the end, int64 [n + 1].
    """

    def __init__(self, values: Pixels | Mapped, offsets: NDArray[np.int64]) -> None:
        self._mapped = values if isinstance(values, Mapped) else None
        self.values: Pixels = values.array if isinstance(values, Mapped) else values
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Pixels:
        if not 0 <= i < len(self):
            raise IndexError(f"clip {i} of {len(self)}")
        clip = self.values[self.offsets[i] : self.offsets[i + 1]]
        if self._mapped:
            self._mapped.touched(1, clip.nbytes)
        return clip

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The frames of each clip, int64 [n]."""
        return np.diff(self.offsets)

    @property
    def form(self) -> PictureForm:
        """Colours and size."""
        return PictureForm(*self.values.shape[1:])

    def padded(self, rows: NDArray[np.int64]) -> tuple[Pixels, NDArray[np.int64]]:
        """Return some clips [B, T, C, H, W], zeros behind their ends, and their lengths [B]."""
        lengths = self.lengths[rows]
        laid = np.zeros((len(rows), int(lengths.max(initial=1)), *self.form), np.uint8)
        for place, row in enumerate(rows.tolist()):
            laid[place, : lengths[place]] = self[row]
        return laid, lengths

    def parts(self, size: int = 1024) -> Iterator[Pixels]:
        """Yield copies of all frames, some at a time: [n, C, H, W]."""
        for start in range(0, len(self.values), size):
            part = self.values[start : start + size].copy()
            if self._mapped:
                self._mapped.touched(1, part.nbytes)
            yield part

    @classmethod
    def of(cls, clips: Iterable[Pixels], form: PictureForm, folder: str | Path | None = None) -> "Clips":
        """Gather clips [T, C, H, W]: in memory, or, from `IN_MEMORY` bytes on, in a file that has no name.

        Such a file is gone when nobody has it open any more: at the end of the process, however that ends.

        Args:
            clips: one by one.
            form: of each.
            folder: where the file is made; None keeps everything in memory.

        Raises:
            RunError: the file cannot be written.
        """
        held: list[Pixels] = []
        ends, size, file = [0], 0, None
        for clip in clips:
            held.append(clip)
            ends.append(ends[-1] + len(clip))
            size += clip.nbytes
            if folder is not None and size > IN_MEMORY:
                file, size = _filed(held, file, folder), 0
                held.clear()
        offsets = np.array(ends, dtype=np.int64)
        if file is None:
            return cls(np.concatenate([np.empty((0, *form), np.uint8), *held]), offsets)
        with _filed(held, file, folder) as whole:
            return cls(Mapped(whole, np.uint8, (ends[-1], *form)), offsets)


def _filed(held: list[Pixels], file: IO[bytes] | None, folder: str | Path | None) -> IO[bytes]:
    """Write pixels to the end of a file, a new one if there is none."""
    try:
        file = file or tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed when it is mapped
        for clip in held:
            file.write(np.ascontiguousarray(clip).data)
        file.flush()
        return file
    except OSError as error:
        raise RunError(f"{folder} must have room for the pictures' pixels: {error.strerror or error}") from error


class ClipBatch(NamedTuple):
    """Some clips, each with a row of ids, laid out for a network."""

    pictures: Tensor
    """uint8 [B, T, C, H, W]; zeros behind the end of each clip."""
    lengths: Tensor
    """Frames of each, int64 [B]."""
    target: Tensor
    """Ids, int64 [B, U]; 0 behind the end of each row."""
    target_lengths: Tensor
    """int64 [B]."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which a batch has no use for
    """Numbers of the rows in the data, int64 [B]."""

    def first(self, rows: int) -> "ClipBatch":
        """Return the first rows, without padding that none of them needs."""
        pictures, lengths, target, target_lengths, index = (part[:rows] for part in self)
        return ClipBatch(
            pictures[:, : int(lengths.max())],
            lengths,
            target[:, : int(target_lengths.max())],
            target_lengths,
            index,
        )


class ClipBatches(ByLength):
    """Batches of clips with rows of ids, of like length in both; in the order of `ByLength`, yields a `ClipBatch`.

    Args:
        clips: the pictures.
        targets: ids of n rows.
        owners: the clip that each row belongs to, int64 [n]; row i to clip i if None.
        batch_size, seed, shuffle, pool: see `ByLength`; rows are sorted by frames, those alike by the ids.

    Raises:
        InputError: a size below 1.
    """

    def __init__(
        self,
        clips: Clips,
        targets: Sequences,
        owners: NDArray[np.int64] | None = None,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        pool: int = 50,
    ) -> None:
        self.clips, self.targets = clips, targets
        self.owners = np.arange(len(targets)) if owners is None else owners
        frames = clips.lengths[self.owners]
        both = frames * (int(targets.lengths.max(initial=0)) + 1) + targets.lengths
        super().__init__((_Lengths(frames), targets), both, batch_size, seed, shuffle, pool)

    def _batch(self, rows: NDArray[np.int64]) -> ClipBatch:
        arrays = (*self.clips.padded(self.owners[rows]), *self.targets.padded(rows), rows)
        return ClipBatch(*(torch.from_numpy(array) for array in arrays))


class _Lengths(NamedTuple):
    """Rows of which only the lengths are known."""

    lengths: NDArray[np.int64]
