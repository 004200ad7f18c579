"""MNIST as sequences: row by row, 28 numbers in each of 28 steps, or pixel by pixel, one number in each of 784.

    python examples/mnist_rows.py --data mnist --out sequences
    recur train classify --train sequences/train.npz --test sequences/test.npz --scale together
    python examples/mnist_rows.py --data mnist --out sequences --by pixels

The folder `--data` holds the four files of the set, train-images-idx3-ubyte.gz and so on.
"""

import gzip
from pathlib import Path
from typing import Literal

import numpy as np
from cyclopts import run
from numpy.typing import NDArray

FILES = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array of bytes in an idx file: two zeros, its type, the number of its axes, their sizes, the bytes."""
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} must be an idx file of bytes, found {content[:4].hex()} at its start")
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, offset=4).astype(int)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def main(*, data: Path, out: Path, by: Literal["rows", "pixels"] = "rows") -> None:
    """Write train.npz and test.npz, for pixels pixels-train.npz and pixels-test.npz: x [N, T, D] in bytes, y [N].

    Parameters
    ----------
    data
        Folder of the idx files.
    out
        Folder to write into.
    by
        What a step is.
    """
    out.mkdir(parents=True, exist_ok=True)
    for part, name in FILES.items():
        images, labels = (read_idx(data / f"{name}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
        x = images if by == "rows" else images.reshape(len(images), -1, 1)
        file = out / (f"{part}.npz" if by == "rows" else f"pixels-{part}.npz")
        np.savez(file, x=x, y=labels)
        print(f"{list(x.shape)} in {file}")


if __name__ == "__main__":
    run(main)
