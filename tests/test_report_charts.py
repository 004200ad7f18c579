"""Where a chart's marks go: ticks, gaps, thinning, and bars that start at zero."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recur.report import Bar, BarChart, LineChart, Series
from recur.report.charts import PATH_POINTS, TABLE_ROWS, bar_picture, line_picture, linear_ticks, log_ticks
from recur.report.tables import number_column, percent

ANY = st.floats(allow_nan=True, allow_infinity=True)


def picture_of(x, y, **options):
    return line_picture(LineChart("t", "x", "y", [Series("a", x, y)], **options))


def test_ticks_are_round_and_enclose_the_values():
    assert linear_ticks(0.812, 0.873, 5)[0] == [0.8, 0.82, 0.84, 0.86, 0.88]
    assert linear_ticks(1, 3, 6, whole=True)[0] == [1, 2, 3]
    assert linear_ticks(5, 5, 5)[0] == [4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6]
    assert log_ticks(0.06, 0.7) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1])
    assert log_ticks(1, 1) == [1, 2]
    assert log_ticks(1e-12, 1e3)[0] == 1e-12
    assert len(log_ticks(1e-12, 1e3)) <= 8


def test_nan_and_infinity_are_gaps():
    picture = picture_of([1, 2, 3, 4, 5, 6], [1, math.nan, 3, 4, math.inf, 6])
    assert picture.lines[0].path.count("M") == 3
    assert picture.lines[0].path.count("L") == 1
    assert [cells[1] for _, cells in picture.numbers] == ["1", "–", "3", "4", "–", "6"]


def test_points_that_no_line_reaches_are_marked():
    y = [math.nan] * 101
    y[37] = 2.0
    assert len(picture_of(range(101), y).lines[0].markers) == 1


def test_zero_and_below_are_gaps_on_a_logarithmic_axis():
    picture = picture_of([1, 2, 3, 4], [0.1, 0.0, -1.0, 10.0], y_log=True)
    assert picture.lines[0].path == "M0 100M100 0"
    assert [tick.text for tick in picture.y_ticks] == ["0.1", "0.2", "0.5", "1", "2", "5", "10"]


def test_a_run_that_diverged_keeps_its_axis_and_says_so():
    picture = line_picture(
        LineChart("t", "x", "y", [Series("a", [1, 2, 3, 4], [3, 2, math.nan, math.nan]), Series("b", [1, 2], [3, 1])])
    )
    assert [tick.text for tick in picture.x_ticks] == ["1", "2", "3", "4"]
    assert [line.last for line in picture.lines] == ["–", "1"]
    assert picture.summary == "a ends at –; b ends at 1"


def test_one_point_stands_in_the_middle():
    picture = picture_of([3], [0.5])
    assert picture.lines[0].markers == [(50, 50)]
    assert [tick.text for tick in picture.x_ticks] == ["3"]
    assert picture.lines[0].last == "0.5"


def test_nothing_but_nan_draws_nothing():
    picture = picture_of([1, 2], [math.nan, math.nan])
    assert picture.lines[0].path == ""
    assert picture.lines[0].last == "–"
    assert picture.y_ticks == []


def test_long_series_are_thinned_but_keep_their_peaks():
    y = np.sin(np.arange(100_000) / 5_000)
    y[54_321] = 7.0
    picture = picture_of(np.arange(100_000), y)
    assert picture.lines[0].path.count("L") <= PATH_POINTS
    assert len(picture.numbers) <= TABLE_ROWS + 1
    assert min(float(point.split()[1]) for point in picture.lines[0].path[1:].split("L")) < 15


def test_marks_outside_the_lines_widen_the_axis():
    picture = picture_of([1, 2], [1, 2], marks=[(5, "late"), (math.nan, "nowhere")])
    assert [(mark.at, mark.text) for mark in picture.marks] == [(100, "late")]


def test_whole_numbers_have_whole_ticks():
    assert [tick.text for tick in picture_of([1, 2, 3], [1, 2, 3]).x_ticks] == ["1", "2", "3"]
    assert [tick.text for tick in picture_of([0.0, 0.5, 1.0], [1, 2, 3]).x_ticks][1] == "0.2"


def test_logarithms_beyond_floats_have_an_axis():
    lags = range(301)
    picture = picture_of(lags, [-6.0 * lag for lag in lags], in_logs=True)
    assert picture.y_ticks[0].text == "1e-600"
    assert picture.lines[0].path.startswith("M0 0L")
    assert picture.lines[0].last == "1.86e-782"
    assert [cells[1] for _, cells in picture.numbers][:2] == ["1", "6.14e-6"]
    grown = picture_of([0, 1], [0.0, 5000.0], in_logs=True)
    assert [tick.text for tick in grown.y_ticks] == ["1", "1e500", "1e1000", "1e1500", "1e2000"]
    assert grown.lines[0].last == "2.97e2171"


def test_logarithms_within_floats_look_like_values_on_a_logarithmic_axis():
    values = [0.1, 3.0, 10.0]
    of_logs = picture_of([1, 2, 3], [math.log(v) for v in values], in_logs=True)
    of_values = picture_of([1, 2, 3], values, y_log=True)
    assert of_logs == of_values
    assert picture_of([1, 2, 3], [0.0, -math.inf, 1.0], in_logs=True).lines[0].path.count("M") == 2


@settings(deadline=None)
@given(st.lists(st.tuples(ANY, ANY), max_size=30), st.sampled_from([{}, {"y_log": True}, {"in_logs": True}]))
def test_any_numbers_give_marks_inside_the_plot(points, options):
    picture = picture_of([x for x, _ in points], [y for _, y in points], **options)
    for x, y in picture.lines[0].markers:
        assert 0 <= x <= 100
        assert 0 <= y <= 100
    assert all(0 <= at <= 100 for at, _ in picture.numbers if picture.y_ticks)
    assert all(-0.01 <= tick.at <= 100.01 for tick in (*picture.x_ticks, *picture.y_ticks))
    assert "nan" not in picture.lines[0].path


@settings(deadline=None)
@given(st.lists(ANY, max_size=8), st.booleans())
def test_any_numbers_give_bars_inside_the_axis(values, as_percent):
    picture = bar_picture(BarChart("t", [Bar("a", v, v, v) for v in values], as_percent))
    for row in picture.rows:
        assert -0.01 <= row.start <= row.start + row.length <= 100.02


def test_bars_start_at_zero():
    picture = bar_picture(BarChart("t", [Bar("a", 0.9, 0.88, 0.92), Bar("b", 0.95)]))
    assert [tick.text for tick in picture.ticks] == ["0%", "25%", "50%", "75%", "100%"]
    assert (picture.rows[0].start, picture.rows[0].length, picture.rows[0].whisker) == (0, 90, (88, 92))
    assert (picture.rows[0].text, picture.rows[0].interval) == ("90.0%", "88.0–92.0")
    assert picture.rows[1].whisker is None


def test_bars_below_zero_go_the_other_way():
    picture = bar_picture(BarChart("t", [Bar("a", -5, -6, -4), Bar("b", 15)], as_percent=False, reference=10))
    assert picture.zero == pytest.approx(100 / 3, abs=0.01)
    assert (picture.rows[0].start, picture.rows[0].length) == (16.67, 16.66)
    assert picture.rows[0].interval == "-6 to -4"
    assert picture.reference.text == "reference 10"


def test_a_bar_without_a_value_is_a_dash():
    picture = bar_picture(BarChart("t", [Bar("a", math.nan, math.nan, 1.0)]))
    assert (picture.rows[0].text, picture.rows[0].length, picture.rows[0].whisker) == ("–", 0, None)


def test_a_column_of_numbers_lines_up():
    assert number_column([0.5, 0.87, 0.912]) == ["0.500", "0.870", "0.912"]
    assert number_column([1000, 25000]) == ["1,000", "25,000"]
    assert number_column([201.52, 390.2]) == ["201.5", "390.2"]
    assert number_column([1e-5, 3e-4]) == ["1e-05", "0.0003"]
    assert number_column([0.5, math.nan, -math.inf]) == ["0.5", "–", "-∞"]
    assert number_column([]) == []
    assert percent(0.91234) == "91.2%"
