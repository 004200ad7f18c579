"""Heat maps, complex planes and histograms: what is thinned, where it goes, and pictures that hold what they say."""

import base64
import math
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recur.report import HeatMap, Histogram, Histograms, Plane, Planes
from recur.report.heat import COLUMNS, ROWS, heat_picture
from recur.report.panels import histogram_pictures, plane_picture


def heat(values, **options):
    return heat_picture(HeatMap("t", "step", "unit", "v", np.asarray(values, dtype=float), **options))


def levels(picture):
    return np.frombuffer(base64.b64decode(picture.levels), "<u2").reshape(picture.rows, picture.columns)


def pixels(uri):
    """Decode a PNG with a palette, checking its sums."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size]) == (zlib.crc32(kind + body),)
        chunks[kind] = body
        at += 12 + size
    columns, rows = struct.unpack(">II", chunks[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(rows, columns + 1)
    assert not lines[:, 0].any()
    return lines[:, 1:], np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)


def test_a_small_map_has_a_pixel_for_each_number():
    picture = heat([[0.0, 1.0, 2.0], [4.0, math.nan, 3.0]])
    shown, palette = pixels(picture.image)
    assert (shown == [[1, 64, 128], [255, 0, 191]]).all() or np.abs(shown - [[1, 64, 128], [255, 0, 192]]).max() <= 1
    assert len(palette) == 256
    assert levels(picture)[1].tolist() == [65535, 0, 1 + round(0.75 * 65534)]
    assert picture.summary == "largest 4 at step 2, unit 1" or picture.summary.startswith("largest 4 at step 0, unit 1")
    assert "1 of 6 blank" in picture.summary


def test_zero_is_blank_on_a_logarithmic_map_and_counted():
    picture = heat([[1e-3, 0.0, 1.0, -1.0]], log=True)
    assert levels(picture).tolist() == [[1, 0, 65535, 0]]
    assert (picture.low, picture.high) == (-3, 0)
    assert [tick.text for tick in picture.scale_ticks] == ["0.001", "0.01", "0.1", "1"]
    assert picture.summary.endswith("2 of 4 blank (zero)")


def test_large_maps_are_thinned_to_means():
    values = np.add.outer(np.arange(100.0), np.arange(1000.0))
    picture = heat(values)
    assert (picture.rows, picture.columns) == (34, 143)
    assert picture.rows <= ROWS
    assert picture.columns <= COLUMNS
    assert (picture.y_per, picture.x_per) == (3, 7)
    assert picture.low == pytest.approx(values[:3, :7].mean())
    # the last block has one row and six columns
    assert picture.high == pytest.approx(values[99:, 994:].mean())


def test_maps_with_the_same_limits_compare():
    low, high = (heat([[v, 10 * v]], limits=(1.0, 100.0), log=True) for v in (1.0, 10.0))
    assert levels(low)[0, 1] == levels(high)[0, 0] == 1 + 32767
    # beyond the limits the end colours are used
    assert levels(heat([[0.1, 1e6]], limits=(1.0, 100.0), log=True)).tolist() == [[1, 65535]]


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(), min_size=3, max_size=3), max_size=4), st.booleans())
def test_any_numbers_give_a_map(rows, log):
    picture = heat(np.array(rows).reshape(-1, 3), log=log)
    if picture.image:
        assert math.isfinite(picture.low)
        assert picture.low < picture.high
        assert all(-0.01 <= tick.at <= 100.01 for tick in (*picture.x_ticks, *picture.y_ticks, *picture.scale_ticks))


def test_points_stand_where_they_belong_in_a_plane():
    picture = plane_picture(Planes("t", ["now", "then"], [Plane("a", [np.array([2.0, 1j]), np.array([])])]))
    now, then = picture.panels[0]
    assert picture.reach == pytest.approx(2.16)
    assert now.path == f"M{50 + 50 / 1.08:.4g} 50h0M50 {50 - 25 / 1.08:.4g}h0"
    assert now.largest == "2"
    assert then.path == ""
    assert picture.radius == pytest.approx(25 / 1.08, abs=0.01)


def test_all_planes_hold_the_unit_circle_and_leave_out_what_is_not_finite():
    picture = plane_picture(Planes("t", ["a"], [Plane("p", [np.array([0.1, complex(math.nan, 0), math.inf])])]))
    assert picture.reach == pytest.approx(1.08)
    assert picture.panels[0][0].path.count("M") == 1


def test_sets_that_are_hollow_are_rings():
    panels = [Plane("p", [np.array([0.1]), np.array([0.2]), np.array([0.3])])]
    shown = plane_picture(Planes("t", ["a", "b", "c"], panels, hollow=[2]))
    assert [points.shape for points in shown.legend] == [0, 0, 1]
    assert [points.shape for points in plane_picture(Planes("t", ["a", "b", "c"], panels)).panels[0]] == [0, 1, 2]


def test_histograms_are_as_high_as_their_largest_share():
    block = Histograms("t", [Histogram("a", [-1, 0, 1], [0.1, 0.4]), Histogram("b", [0, 1], [math.nan])])
    first, second = histogram_pictures(block)
    assert [(bar.x, bar.width, bar.height) for bar in first.bars] == [(0, 50, 25), (50, 50, 100)]
    assert first.bars[1].text == "0 to 1: 40.0%"
    assert first.top == "40.0%"
    assert second.bars[0].height == 0


def test_rows_that_are_sentences_have_room_for_them():
    names = ["Mary went to the hall.", "a sentence of many more words than fit beside the map"]
    picture = heat([[1, 2], [3, 4]], y_names=names, x_names=["a long name of a column", "b"])
    assert picture.long
    assert [tick.text for tick in picture.y_ticks] == [names[0], names[1][:39] + "…"]
    assert picture.x_ticks[0].text == "a long name o…"
    assert not heat([[1, 2], [3, 4]], y_names=["internationally", "b"]).long
