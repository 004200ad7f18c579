"""From tables of numbers to forecasts: cuts in time, no look ahead, missing and uneven times, intervals, scores."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from recur.app.main import main
from recur.data.numbers import carried
from recur.data.series import SeriesColumns, choose_columns, read_panel
from recur.data.times import Clock, calendar_features, parse_times
from recur.data.windows import lay_out
from recur.errors import InputError
from recur.models.forecaster import Forecaster, ForecasterConfig, student_quantiles
from recur.tasks.forecast.data import read_history
from recur.tasks.forecast.options import ForecastOptions
from recur.tasks.forecast.scores import Errors, copies
from recur.tasks.forecast.task import FORECAST
from recur.tasks.interrupt import Interrupted
from recur.tasks.job_run import resumed_options, train_run
from recur.tasks.predictor import load
from recur.tasks.progress import Progress

torch.set_num_threads(1)

SMALL = {
    "horizon": 4,
    "window": 8,
    "hidden_size": 6,
    "epochs": 2,
    "batch_size": 16,
    "threads": 1,
    "watch_gradients": 0,
    "dropout": 0.0,
}


def hours(count: int, start: str = "2020-01-01T00") -> list[str]:
    return [
        str(time).replace("T", " ") for time in np.datetime64(start, "s") + np.arange(count) * np.timedelta64(1, "h")
    ]


def table(path: Path, columns: dict[str, list[object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def waves(count: int, *, noise: float = 0.1, seed: int = 0) -> dict[str, list[object]]:
    draw, t = np.random.default_rng(seed), np.arange(count)
    a = 10 + 3 * np.sin(2 * np.pi * t / 24) + noise * draw.standard_normal(count)
    b = -100 + 40 * np.cos(2 * np.pi * t / 24) + noise * draw.standard_normal(count)
    return {"time": list(hours(count)), "a": a.round(4).tolist(), "b": b.round(4).tolist()}


def options(tmp_path: Path, **given: object) -> ForecastOptions:
    if "train" not in given:
        given["train"] = table(tmp_path / "waves.csv", waves(160))
    return ForecastOptions(**{**SMALL, "out": tmp_path / "run", **given})


def run(tmp_path: Path, **given: object) -> Path:
    return train_run(FORECAST, options(tmp_path, **given), Progress(stream=io.StringIO()))


def metrics(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "metrics.json").read_text())
    return found


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("waves")
    data = table(folder / "waves.csv", waves(300))
    asked = {"horizon": 12, "window": 24, "segment": 4, "hidden_size": 16, "epochs": 10, "learning_rate": 0.02}
    return run(folder, train=data, quantiles=(0.1, 0.5, 0.9), test_stride=3, **asked)


def test_a_wave_is_foretold_better_than_its_last_value_and_a_report_shows_it(learned: Path):
    found = metrics(learned)
    test = found["test"]
    assert test["mse"] < 0.1 * found["baselines"]["naive"]["mse"]
    assert test["skill"] > 0.9
    assert test["beats_naive"] == all(
        test["mse"] < found["baselines"][name]["mse"] for name in ("naive", "seasonal naive")
    )
    assert not test["copies"]
    assert found["season"] == 24
    assert set(found["baselines"]) == {"naive", "seasonal naive", "mean", "linear"}
    assert len(found["mse_by_step"]) == 12
    # a column's own unit: the deviations are 3 and 40 by the root of 2
    a, b = (test["columns"][name] for name in "ab")
    for one, deviation in ((a, 3 / 2**0.5), (b, 40 / 2**0.5)):
        assert one["root_mean_square"] == pytest.approx(one["mse"] ** 0.5 * deviation, rel=0.05)
    page = (learned / "report.html").read_text()
    for words in ("Error by step", "Error by origin", 'class="shade', "naive", "a from 2020-01-"):
        assert words in page


def test_intervals_are_checked_on_values_that_were_not_learned(learned: Path):
    coverage = metrics(learned)["test"]["coverage"]
    assert coverage["nominal"] == pytest.approx(0.8)
    assert 0.4 < coverage["found"] < 1
    assert coverage["width"] > 0


def test_it_goes_on_where_the_table_ends(learned: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["predict", str(learned)]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == ["time", "series", "value", "q0.1", "q0.5", "q0.9"]
    assert [row["time"] for row in rows[:12]] == hours(312)[300:]
    truth = waves(312, noise=0.0)
    off = [float(row["value"]) - value for row, value in zip(rows[:12], truth["a"][300:], strict=True)]
    assert rows[0]["series"] == "a"
    assert rows[12]["series"] == "b"
    assert np.sqrt(np.mean(np.square(off))) < 0.6
    assert all(float(row["q0.1"]) <= float(row["value"]) <= float(row["q0.9"]) for row in rows)


def test_a_forecast_hangs_on_nothing_behind_its_origin(learned: Path, tmp_path: Path):
    whole = waves(400, seed=3)
    known = table(tmp_path / "known.csv", {name: values[:300] for name, values in whole.items()})
    changed = {
        name: values[:300] + (values[300:] if name == "time" else [99999.0] * 100) for name, values in whole.items()
    }
    later = table(tmp_path / "later.csv", changed)
    predictor = load(learned)
    first = predictor.predict(list(predictor.items(known)))
    history = predictor._history(predictor._panel([later]))
    from recur.tasks.forecast.model import foretell

    (made,) = foretell(predictor.model, history.prepared, history.shape, np.array([299]), predictor.levels)
    means, deviations = predictor.scaler.of_series(history.panel, 2)
    assert (made.point[0] * deviations[0] + means[0])[:, 0].tolist() == first[0].values["a"]


def test_what_is_learned_does_not_change_with_the_future(tmp_path: Path):
    """All behind the cut is shuffled and blown up: scaler, windows and weights stay as they are, to the bit."""
    draw = np.random.default_rng(1)
    first, second = waves(160), waves(160)
    for name in "ab":
        # behind the training part for the one, behind the validation part for the other
        later = np.array(second[name][128:])
        second[name][128:] = (1000 * draw.permutation(later)).tolist()
    folders, histories = [], []
    for number, columns in enumerate((first, second)):
        home = tmp_path / str(number)
        home.mkdir()
        data = table(home / "waves.csv", columns)
        given = options(home, train=data, epochs=3)
        histories.append(read_history(given))
        folders.append(run(home, train=data, epochs=3))
    one, two = histories
    assert one.cuts == two.cuts
    assert one.panel.clock.text(one.cuts[1]) == hours(160)[128]
    assert (one.scaler.means == two.scaler.means).all()
    assert (one.scaler.deviations == two.scaler.deviations).all()
    assert (one.origins("train") == two.origins("train")).all()
    seen = int(np.searchsorted(one.panel.ticks, one.cuts[1]))
    assert (one.prepared.values[:seen] == two.prepared.values[:seen]).all()
    assert not (one.prepared.values[seen:] == two.prepared.values[seen:]).any()
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    assert metrics(folders[0])["validation"]["mse"] == metrics(folders[1])["validation"]["mse"]
    assert metrics(folders[0])["test"]["mse"] != metrics(folders[1])["test"]["mse"]


def test_parts_lie_one_behind_the_other_in_time(tmp_path: Path):
    history = read_history(options(tmp_path, split=(100, 30, 20)))
    ahead = np.arange(1, 5)
    reached = {part: history.origins(part)[:, None] + ahead for part in ("train", "validation", "test")}
    assert (reached["train"].max(), reached["train"].min()) == (99, 8)
    assert (reached["validation"].min(), reached["validation"].max()) == (100, 129)
    assert (reached["test"].min(), reached["test"].max()) == (130, 149)
    assert len(reached["test"]) == 20 - 4 + 1
    assert any("10 times behind the test part" in note for note in history.notes)
    values = history.panel.values[:100]
    assert history.scaler.means[0] == pytest.approx(values.mean(axis=0), rel=1e-6)


def test_windows_that_are_left_out_keep_all_phases(tmp_path: Path):
    days = [str(np.datetime64("2021-03-01") + day) for day in range(60)]
    columns = {"day": days * 7, "shop": [f"s{i}" for i in range(7) for _ in days], "a": list(range(420))}
    data = table(tmp_path / "shops.csv", columns)
    history = read_history(options(tmp_path, train=data, series="shop"))
    whole, some = history.origins("train"), history.origins("train", 7)
    assert len(some) == pytest.approx(len(whole) / 7, abs=7)
    assert set(history.panel.ticks[some] // 86400 % 7) == set(range(7))
    alone = options(tmp_path, stride=24)
    assert any("multiple of the season of 24 steps" in note for note in read_history(alone).notes)


def test_windows_are_whole_seasons_and_little_training_is_told(tmp_path: Path):
    months = [f"{1990 + i // 12}-{1 + i % 12:02d}" for i in range(146)]
    data = table(tmp_path / "months.csv", {"month": months, "a": list(range(146))})
    given = {"train": data, "horizon": 12, "window": None, "batch_size": 32, "epochs": 10}
    history = read_history(options(tmp_path, **given))
    # a quarter of the 102 months of the training part, in whole years
    assert (history.season, history.shape.window) == (12, 24)
    # 67 windows are 3 batches
    assert "10 epochs of 3 steps are little for a network to learn from; try --epochs 67" in history.notes
    assert not any("little" in note for note in read_history(options(tmp_path, **{**given, "epochs": 67})).notes)


def test_files_go_on_in_time(tmp_path: Path):
    whole = waves(160)
    files = {
        name: table(tmp_path / f"{name}.csv", {key: values[cut] for key, values in whole.items()})
        for name, cut in (("train", slice(0, 100)), ("validation", slice(100, 130)), ("test", slice(130, 160)))
    }
    history = read_history(options(tmp_path, **files))
    one = read_history(options(tmp_path, split=(100, 30, 30)))
    assert history.cuts == one.cuts
    assert (history.prepared.values == one.prepared.values).all()
    with pytest.raises(InputError, match="must begin after the last time of the file before it, 2020-01-07 15:00:00"):
        read_history(options(tmp_path, train=files["test"], test=files["train"]))


@pytest.mark.parametrize(
    "given",
    [
        {"form": "direct"},
        {"form": "recursive"},
        {"form": "recursive", "distribution": "normal"},
        {"form": "recursive", "distribution": "student-t", "target": ("b",), "calendar": ("hour",)},
        {"form": "direct", "distribution": "student-t", "cell": "lstm"},
        {"form": "segments", "together": True, "normalise": "window", "layers": 2},
        {"form": "segments", "target": ("b",), "calendar": ("auto",), "segment": 2},
        {"form": "direct", "calendar": ("hour",), "normalise": "none"},
        {"form": "recursive", "calendar": ("hour",), "together": True},
    ],
    ids=str,
)
def test_every_form_is_trained_saved_and_predicts(tmp_path: Path, given: dict[str, object]):
    folder = run(tmp_path, epochs=1, baselines=False, test_stride=4, stride=4, **given)
    predictor = load(folder)
    (answer,) = predictor.predict(list(predictor.own()))
    assert set(answer.values) == set(given.get("target", ("a", "b")))
    assert all(len(values) == 4 and np.isfinite(values).all() for values in answer.values.values())
    assert bool(answer.quantiles) == ("distribution" in given)
    for levels in answer.quantiles.values():
        assert all(low <= high for low, high in zip(levels["0.1"], levels["0.9"], strict=True))
    scores = predictor.evaluate(tmp_path / "waves.csv")
    assert scores.windows == 160 - 8 - 4 + 1
    assert math.isfinite(scores.mse)
    assert any("was trained on" in note for note in scores.notes)
    assert predictor.example(None, 4).inputs[0].shape[0] == 4


def test_many_series_in_one_table(tmp_path: Path):
    draw, names, count = np.random.default_rng(0), [f"s{i}" for i in range(60)], 20
    levels = draw.uniform(1, 1000, len(names))
    columns: dict[str, list[object]] = {"day": [], "shop": [], "sold": [], "price": [], "kind": [], "size": []}
    for day in range(count):
        for i, name in enumerate(names):
            price = 1 + (day + i) % 3
            columns["day"].append(str(np.datetime64("2021-03-01") + day))
            columns["shop"].append(name)
            missing = i == 5 and day in (3, 15)
            columns["sold"].append("" if missing else round(levels[i] * (4 - price) + draw.standard_normal(), 3))
            columns["price"].append(price)
            columns["kind"].append("ab"[i % 2])
            columns["size"].append(round(levels[i]))
    data = table(tmp_path / "shops.csv", columns)
    asked = {"series": "shop", "known": ("price",), "static": ("kind", "size"), "horizon": 2, "window": 4}
    folder = run(tmp_path, train=data, epochs=10, hidden_size=16, learning_rate=0.03, normalise="none", **asked)
    found = metrics(folder)
    assert found["series"] == 60
    assert any("of the values are missing" in note for note in found["notes"])
    # prices are known in advance, and the last value does not know them
    assert found["test"]["mse"] < 0.3 * found["baselines"]["naive"]["mse"]
    predictor = load(folder)
    with pytest.raises(InputError, match="--known columns must reach 2 steps beyond the last values of series 's0'"):
        list(predictor.own())
    future = {name: list(values) for name, values in columns.items()}
    future["sold"][-120:] = [""] * 120
    answers = predictor.predict(list(predictor.items(table(tmp_path / "future.csv", future))))
    assert [answer.series for answer in answers] == names
    assert answers[0].times == ["2021-03-19", "2021-03-20"]
    expected = levels * (4 - (1 + (18 + np.arange(60)) % 3))
    made = np.array([answer.values["sold"][0] for answer in answers])
    assert np.corrcoef(made, expected)[0, 1] > 0.9


def test_a_recursive_network_foretells_what_else_it_reads(tmp_path: Path):
    """b is a as it was a step before: without a forecast of a nothing is known of it two steps ahead."""
    a = np.sin(np.arange(240) * 2 * np.pi / 5) + 3
    columns = {"time": hours(240), "a": a.round(4).tolist(), "b": [3.0, *a[:-1].round(4)]}
    path = table(tmp_path / "lag.csv", columns)
    asked = {"target": ("b",), "form": "recursive", "epochs": 12, "hidden_size": 16, "learning_rate": 0.02}
    folder = run(tmp_path, train=path, **asked)
    found = metrics(folder)
    assert list(found["test"]["columns"]) == ["b"]
    assert found["test"]["values"] == found["test"]["windows"] * 4
    assert found["test"]["mse"] < 0.05
    assert any("it foretells a too, which are not scored" in note for note in found["notes"])
    history = read_history(options(tmp_path, train=path, **asked))
    batch = lay_out(history.prepared, history.shape, np.array([20]))
    assert (batch.target[0].numpy() == history.prepared.values[21:25]).all()


def test_a_series_that_is_new_is_scaled_by_its_own_past(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    whole = waves(160)
    days, a = whole["time"], np.array(whole["a"])
    path = table(tmp_path / "one.csv", {"time": days, "name": ["old"] * 160, "a": a.tolist()})
    folder = run(tmp_path, train=path, series="name", split=(100, 30, 30), epochs=1)
    # the same values in another unit, of the training part, which is the past of both
    both = {"time": days[:100] * 2, "name": ["old"] * 100 + ["new"] * 100, "a": [*a[:100], *(100 * a[:100] - 7)]}
    later = table(tmp_path / "both.csv", both)
    predictor = load(folder)
    old, new = predictor.predict(list(predictor.items(later)))
    assert new.values["a"] == pytest.approx(100 * np.array(old.values["a"]) - 7, rel=1e-4)
    # scores are reckoned by the first window, and nothing behind it changes them
    scores = predictor.evaluate(later)
    assert scores.mase > 0
    assert (
        "1 of 2 series, such as new, were not there in training: each is scaled by its own first 8 steps"
        in scores.notes
    )
    scalers = []
    for factor in (1, 1000):
        both["a"][108:] = [factor * value for value in both["a"][108:]]
        history = predictor._history(predictor._panel([table(later, both)]))
        scalers.append((history.scaler.means[1, 0], history.prepared.values[100:108].tolist()))
    assert scalers[0] == scalers[1]
    assert main(["evaluate", str(folder), str(later)]) == 0
    assert "MASE" in capsys.readouterr().out


def test_parquet_is_read_as_csv_is(tmp_path: Path):
    duckdb = pytest.importorskip("duckdb")
    columns = waves(60)
    columns["a"][7] = ""
    path = table(tmp_path / "waves.csv", columns)
    for name, kind in (("plain", "TIMESTAMP"), ("zone", "TIMESTAMPTZ")):
        duckdb.sql("SET TimeZone = 'UTC'")
        rows = f"SELECT time::{kind} AS time, a, b::FLOAT AS b, a > 9 AS high FROM read_csv('{path}')"
        duckdb.sql(f"COPY ({rows}) TO '{tmp_path / name}.parquet' (FORMAT parquet)")
        found = tmp_path / f"{name}.parquet"
        chosen = choose_columns(found, None, (), None, (), ())
        assert chosen == SeriesColumns("time", ("a", "b"))
        one, other = read_panel([path], chosen), read_panel([found], chosen)
        assert (one.ticks == other.ticks).all()
        assert np.allclose(one.values, other.values, equal_nan=True)
        assert one.clock == other.clock


def test_series_without_a_past_are_left_out(tmp_path: Path):
    days = [str(np.datetime64("2021-03-01") + day) for day in range(60)]
    columns = {
        "day": days + days[50:] + days,
        "shop": ["old"] * 60 + ["new"] * 10 + ["half"] * 60,
        "a": [*range(60), *range(1000, 1010), *range(60)],
        "b": [*range(60), *range(1000, 1010), *([""] * 50), *range(5000, 5010)],
    }
    history = read_history(options(tmp_path, train=table(tmp_path / "shops.csv", columns), series="shop"))
    assert history.panel.names == ["old", "half"]
    assert any("1 of 3 series, such as new, have no values in the training part" in note for note in history.notes)
    # what was never seen in training cannot be scaled, and is never foretold
    assert np.isnan(history.prepared.observed[60:, 1]).all()
    assert np.abs(history.prepared.values).max() < 10


def test_missing_values_are_carried_on_and_marked_but_never_foretold(tmp_path: Path):
    columns = waves(160)
    columns["a"][20] = columns["a"][21] = ""
    columns["b"][140] = "NA"
    history = read_history(options(tmp_path, train=table(tmp_path / "gaps.csv", columns)))
    assert history.prepared.values[21, 0] == history.prepared.values[19, 0]
    assert history.prepared.missing[20:22, 0].all()
    assert history.shape.flags
    folder = run(tmp_path, train=tmp_path / "gaps.csv", epochs=1)
    # 29 windows of the test part begin their 4 steps at 128..156; 4 of them meet the missing value
    assert metrics(folder)["test"]["values"] == 2 * 4 * 29 - 4


def test_the_first_values_of_a_series_are_not_those_of_the_one_before():
    values = np.array([[1.0], [np.nan], [np.nan], [5.0]], dtype=np.float32)
    filled, missing = carried(values, np.array([0, 0, 2, 2]))
    assert filled[:, 0].tolist() == [1, 1, 0, 5]
    assert missing[:, 0].tolist() == [False, True, True, False]


def test_uneven_times_are_told_filled_or_taken_as_rows(tmp_path: Path):
    columns = {name: values[:3] + values[5:] for name, values in waves(30).items()}
    path, what = table(tmp_path / "gap.csv", columns), SeriesColumns("time", ("a", "b"))
    with pytest.raises(InputError, match=r"1 hour apart, found 2020-01-01 02:00:00 and then 2020-01-01 05:00:00, the"):
        read_panel([path], what)
    filled = read_panel([path], what, "fill")
    assert len(filled.values) == 30
    assert np.isnan(filled.values[3:5]).all()
    assert not np.isnan(filled.values[5:]).any()
    assert len(read_panel([path], what, "rows").values) == 28


def test_rows_in_any_order_are_the_same_series(tmp_path: Path):
    columns, order = waves(40), np.random.default_rng(0).permutation(40)
    what = SeriesColumns("time", ("a", "b"))
    given = read_panel([table(tmp_path / "one.csv", columns)], what)
    mixed = table(tmp_path / "two.csv", {name: [values[i] for i in order] for name, values in columns.items()})
    found = read_panel([mixed], what)
    assert (found.values == given.values).all()
    assert "order of time" in found.notes[0]
    assert not given.notes


def test_times_are_read_and_written():
    for texts, unit in (
        (["1949-01", "1949-02"], "month"),
        (["3", "7"], "number"),
        (["2020/05/02", "2020/05/03"], "second"),
    ):
        found = parse_times(texts)
        assert not isinstance(found, int)
        assert found[1] == unit
        step = int(found[0][1] - found[0][0])
        assert [Clock(found[1], step).text(int(t)) for t in found[0]] == [text.replace("/", "-") for text in texts]
    assert parse_times(["2020-01-01", "then"]) == 1
    # the hour that summer time leaves out is none
    summer, _ = parse_times(["2020-03-29 01:00+01:00", "2020-03-29 03:00+02:00"])
    assert np.diff(summer).tolist() == [3600]
    friday = int(np.datetime64("2024-05-31", "s").astype(np.int64))
    after = Clock("second", 86400, weekdays=True).after(friday, 3)
    assert [Clock("second", 86400).text(int(t)) for t in after] == ["2024-06-03", "2024-06-04", "2024-06-05"]
    assert calendar_features(np.array([6, 18]), Clock("month", 1), ["month"]).round(3).tolist() == [[0, -1], [0, -1]]
    assert [Clock("second", step).season for step in (900, 3600, 86400)] == [96, 24, 7]
    assert Clock("month", 1).season == 12


def test_a_walk_without_aim_is_called_a_copy_and_a_wave_is_not():
    draw = np.random.default_rng(0)
    walk = np.cumsum(draw.standard_normal(500)).astype(np.float32)
    wave = np.sin(np.arange(500) / 10).astype(np.float32)
    for values, copied in ((walk, True), (wave, False)):
        errors = Errors(1, 1, 1)
        made = values[:-1] + 0.01 * draw.standard_normal(499) if copied else values[1:] + 0.01
        parts = [part.astype(np.float32).reshape(-1, 1, 1) for part in (made, values[1:])]
        errors.add(np.arange(499), np.zeros(499, np.int64), *parts, values[:-1, None])
        assert (copies(errors) is not None) == copied


def test_a_network_on_a_random_walk_says_that_it_is_of_no_use(tmp_path: Path):
    values = np.cumsum(np.random.default_rng(2).standard_normal(400)).round(3).tolist()
    data = table(tmp_path / "walk.csv", {"t": list(range(400)), "price": values})
    asked = ["--horizon", "1", "--window", "12", "--epochs", "3", "--threads", "1", "--hidden-size", "6"]
    folder = tmp_path / "run"
    assert main(["train", "forecast", "--train", str(data), "--out", str(folder), *asked]) == 0
    found = metrics(folder)
    assert "a naive forecast" in (folder / "report.html").read_text()
    assert found["test"]["copies"] or not found["test"]["beats_naive"]
    assert any("naive forecast:" in note or "copy of the last value" in note for note in found["notes"])


def test_it_is_carried_on_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from recur.tasks.training import Training

    whole = run(tmp_path, out=tmp_path / "whole", epochs=3)
    done = Training.step_done

    def stopping(self: Training) -> None:
        done(self)
        if self.step == 8:
            self.save()
            raise Interrupted(2, self.folder)

    monkeypatch.setattr(Training, "step_done", stopping)
    with pytest.raises(Interrupted):
        run(tmp_path, epochs=3)
    monkeypatch.undo()
    given = {"out": str(tmp_path / "run"), "resume": True}
    train_run(FORECAST, resumed_options(FORECAST, given), Progress(stream=io.StringIO()))
    files = [(folder / "model.safetensors").read_bytes() for folder in (whole, tmp_path / "run")]
    assert files[0] == files[1]


def test_a_segment_network_is_that_of_the_paper():
    """Lin et al. 2023: segments, one pass of the GRU, and a step for each segment ahead from the same state."""
    config = ForecasterConfig(window=12, horizon=8, segment=4, hidden_size=6, channels=3)
    model, window, channel = Forecaster(config).eval(), torch.randn(5, 12, 1), torch.tensor([0, 1, 2, 0, 1])
    made = model(window, channel=channel)[..., 0, 0]
    last = window[:, -1:, 0]
    read = torch.relu(model.project((window[..., 0] - last).view(5, 3, 4)))
    state = model.recurrent(read.transpose(0, 1))[1]
    parts = []
    for place in model.place:
        asked = torch.cat([place.expand(5, -1), model.channel(channel)], dim=1)
        parts.append(model.readout(model.recurrent(asked[None], state)[0][0]))
    assert torch.allclose(made, torch.cat(parts, dim=1) + last, atol=1e-6)


def test_a_recursive_network_reads_what_it_foretold():
    config = ForecasterConfig(window=6, horizon=4, form="recursive", hidden_size=5, normalise="none")
    model, window = Forecaster(config).eval(), torch.randn(3, 6, 1)
    free = model(window)
    assert torch.allclose(model(window, given=free[..., 0]), free, atol=1e-6)
    other = model(window, given=torch.randn(3, 4, 1))
    assert torch.allclose(other[:, 0], free[:, 0], atol=1e-6)
    assert not torch.allclose(other[:, 1:], free[:, 1:], atol=1e-3)


def test_losses_of_quantiles_and_distributions_are_least_where_they_should_be():
    target = torch.randn(4000, 1, 1)
    model = Forecaster(ForecasterConfig(window=2, horizon=1, quantiles=(0.1, 0.5, 0.9), hidden_size=2))
    true = torch.tensor([-1.2816, 0.0, 1.2816]).expand(4000, 1, 1, 3)
    assert model.loss(true, target) < min(model.loss(true + shift, target) for shift in (-0.3, 0.3))
    for kind in ("normal", "student-t"):
        model = Forecaster(ForecasterConfig(window=2, horizon=1, distribution=kind, hidden_size=2))
        at = [torch.tensor([0.0, scale]).expand(4000, 1, 1, 2) for scale in (0.9, 0.4, 3.0)]
        losses = [float(model.loss(made, target).detach()) for made in at]
        assert losses[0] == min(losses)
    assert student_quantiles(1e4, (0.975,))[0] == pytest.approx(1.96, abs=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"time": "date"}, "there is no column 'date'"),
        ({"target": ("c",)}, r"--target 'c' must be one of the values that are read, a, b"),
        ({"split": (100, 30)}, "--split must be three numbers of times"),
        ({"split": (150, 30, 20)}, "needs 200 times, .* has 160"),
        ({"quantiles": (0.9, 0.1)}, "--quantiles must be several that rise between 0 and 1, 0.5 among them"),
        ({"form": "recursive", "quantiles": (0.1, 0.5, 0.9)}, "--quantiles needs --distribution with it"),
        ({"calendar": ("weekdy",)}, "--calendar must be of auto, hour, .* got 'weekdy'"),
        ({"segment": 3}, "--segment must divide --window 8, got 3"),
        ({"horizon": 60}, "the train part must have room|the validation part must have room"),
        ({"window": 150}, "the train part must have room for a forecast"),
        ({"horizon": 0}, "--horizon must be at least 1, got 0"),
        ({"validation_share": 0.6, "test_share": 0.5}, "must leave something to learn from"),
        ({"split": (9, 9, 9), "test": "x.csv"}, "--split cuts --train and must not be given with"),
        ({"known": ("a",), "values": ("a", "b")}, "asked for twice"),
        ({"pictures": 0}, "--pictures must be at least 1, got 0"),
    ],
    ids=str,
)
def test_wrong_options_are_named(tmp_path: Path, given: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        run(tmp_path, **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("a", 7, "many"), "line 9: expected a number as 'a', or nothing, found 'many'"),
        (("a", 7, "inf"), "line 9: expected a finite number as 'a', found 'inf'"),
        (("time", 7, "noon"), "line 9: expected a time as 'time', such as .* found 'noon'"),
        (("time", 7, "2020-01-01 06:00:00"), "one row for each time, found two at 2020-01-01 06:00:00"),
    ],
    ids=str,
)
def test_wrong_cells_are_named(tmp_path: Path, change: tuple[str, int, str], message: str):
    columns = waves(160)
    columns[change[0]][change[1]] = change[2]
    with pytest.raises(InputError, match=message):
        read_history(options(tmp_path, train=table(tmp_path / "wrong.csv", columns), values=("a", "b")))


def test_columns_are_found(tmp_path: Path):
    columns = waves(30) | {"name": ["x"] * 30, "nothing": [""] * 30}
    path = table(tmp_path / "columns.csv", columns)
    assert choose_columns(path, None, (), None, (), ()) == SeriesColumns("time", ("a", "b"))
    for text, wrong in (("t;a\n1;2\n", "it seems to be separated by ';'"), ("t,a\n1,x 5\n", "line 2 has 'x 5' as 'a'")):
        (tmp_path / "wrong.csv").write_text(text)
        with pytest.raises(InputError, match=f"must have columns of numbers besides t.*found none: .*{wrong}"):
            choose_columns(tmp_path / "wrong.csv", None, (), None, (), ())
    (tmp_path / "wrong.csv").write_text("t,a\n1,2\n3\n")
    with pytest.raises(InputError, match=r"line 3: .*; correct it$"):
        choose_columns(tmp_path / "wrong.csv", None, (), None, (), ())
    lines = [json.dumps({"time": t, "a": None if i == 3 else i}) for i, t in enumerate(hours(30))]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    chosen = choose_columns(tmp_path / "rows.jsonl", None, (), None, (), ())
    panel = read_panel([tmp_path / "rows.jsonl"], chosen)
    assert np.isnan(panel.values[:, 0]).nonzero()[0].tolist() == [3]


def test_texts_and_unknown_series_are_refused(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["predict", str(learned), "tomorrow"]) == 2
    shown = capsys.readouterr()
    assert "goes on with the series of a table" in shown.err
    assert not shown.out
    assert main(["predict", str(learned), "--text", "a"]) == 2
    assert "--text is no flag for" in (shown := capsys.readouterr().err)
    assert "its task has none" in shown
    days = waves(60) | {"time": [str(np.datetime64("2020-01-01") + day) for day in range(60)]}
    assert main(["evaluate", str(learned), str(table(tmp_path / "days.csv", days))]) == 2
    assert "must have times 1 hour apart as in training, got 1 day" in capsys.readouterr().err
    short = table(tmp_path / "short.csv", waves(20))
    assert main(["evaluate", str(learned), str(short)]) == 2
    assert "must have more than 35 steps" in capsys.readouterr().err
    assert main(["evaluate", str(learned), str(table(tmp_path / "other.csv", waves(100, seed=9)))]) == 0
    shown = capsys.readouterr().out
    assert "MSE" in shown
    assert "in the 80% interval" in shown
