"""Pixels as the data URI of a PNG."""

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def png(pixels: Pixels, palette: Pixels | None = None) -> str:
    """Return the data URI of a picture.

    Args:
        pixels: grey [rows, columns] or red, green and blue [rows, columns, 3], 0..255; or, with a palette, 0 for
            transparent and n for its nth colour.
        palette: colours [n, 3].

    >>> png(np.zeros((2, 3), np.uint8))[:30]
    'data:image/png;base64,iVBORw0K'
    """
    rows, columns = pixels.shape[:2]
    colours = 3 if palette is not None else 2 if pixels.ndim == 3 else 0
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), pixels.reshape(rows, -1)], axis=1).tobytes()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, colours, 0, 0, 0))]
    if palette is not None:
        chunks += [(b"PLTE", bytes(3) + palette.tobytes()), (b"tRNS", b"\x00")]
    chunks += [(b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()
