"""Forecasts without a network: the last value, the last season, the mean, and a linear map of the window."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recur.data.windows import Prepared, Shape
from recur.tasks.forecast.data import History

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Forecast = Callable[[Rows], Floats]
"""From origins [B] to scaled values [B, H, C]."""

RIDGES = (1e-3, 1.0, 1e3)
MOST_WINDOWS = 50_000
CHUNK = 256


@dataclass(frozen=True)
class Rival:
    """A simple forecast."""

    name: str
    description: str
    forecast: Forecast
    seconds: float = 0.0
    """To fit it."""


def past(data: Prepared, window: int, rows: Rows) -> Floats:
    """Return the targets up to the origins `rows` [B], [B, L, C]; before the begin of a series its first value."""
    index = rows[:, None] + np.arange(1 - window, 1)
    index = np.maximum(index, data.begins[rows][:, None])
    return data.values[index, : data.targets]


def naive(data: Prepared, horizon: int) -> Rival:
    """The last value."""

    def forecast(rows: Rows) -> Floats:
        return np.repeat(data.values[rows, None, : data.targets], horizon, axis=1)

    return Rival("naive", "the last value, again and again", forecast)


def seasonal(data: Prepared, horizon: int, season: int) -> Rival:
    """The last season, again and again; where there is none yet, the first value of the series."""

    def forecast(rows: Rows) -> Floats:
        index = rows[:, None] - season + 1 + np.arange(horizon) % season
        index = np.maximum(index, data.begins[rows][:, None])
        return data.values[index, : data.targets]

    return Rival("seasonal naive", f"the last season of {season} steps, again and again", forecast)


def mean(data: Prepared, shape: Shape) -> Rival:
    """The mean of the window."""

    def forecast(rows: Rows) -> Floats:
        return np.repeat(past(data, shape.window, rows).mean(axis=1, keepdims=True), shape.horizon, axis=1)

    return Rival("mean", "the mean of the window", forecast)


def linear(history: History, train: Rows, validation: Rows) -> Rival:
    """A linear map from the window to the horizon, the same for all columns and series, by ridge regression.

    Windows are freed of their last value (NLinear of Zeng et al. 2023, arXiv:2205.13504). The penalty of the three is
    taken whose forecasts of the validation part are best.
    """
    start = time.monotonic()
    data, shape = history.prepared, history.shape

    def windows(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        seen = past(data, shape.window, rows).transpose(0, 2, 1).reshape(-1, shape.window).astype(np.float64)
        index = rows[:, None] + np.arange(1, shape.horizon + 1)
        target = np.where(data.missing[index, : data.targets], np.nan, data.values[index, : data.targets])
        target = target.transpose(0, 2, 1).reshape(-1, shape.horizon).astype(np.float64)
        there = ~np.isnan(target).any(axis=1)
        last = seen[there, -1:]
        return np.append(seen[there, :-1] - last, np.ones_like(last), axis=1), target[there] - last

    size = shape.window
    square, product = np.zeros((size, size)), np.zeros((size, shape.horizon))
    every = max(1, len(train) * data.targets // MOST_WINDOWS)
    for rows in np.array_split(train[::every], max(1, len(train[::every]) // CHUNK)):
        x, y = windows(rows)
        square += x.T @ x
        product += x.T @ y
    chosen = validation[:: max(1, len(validation) * data.targets // (MOST_WINDOWS // 10))]
    x, y = windows(chosen)
    best: NDArray[np.floating[Any]] = np.zeros((size, shape.horizon))
    error = np.inf
    for ridge in RIDGES:
        # the constant is not held back
        penalty = ridge * np.append(np.ones(size - 1), 1e-9 / ridge)
        weights = np.linalg.lstsq(square + np.diag(penalty), product, rcond=None)[0]
        found = float(((x @ weights - y) ** 2).mean()) if len(x) else 0.0
        if found < error:
            best, error = weights, found
    map32 = best.astype(np.float32)

    def forecast(rows: Rows) -> Floats:
        seen = past(data, shape.window, rows).transpose(0, 2, 1)
        last = seen[..., -1:]
        made = np.append(seen[..., :-1] - last, np.ones_like(last), axis=2) @ map32 + last
        return made.transpose(0, 2, 1).astype(np.float32)

    return Rival("linear", "ridge regression from the window to the horizon", forecast, time.monotonic() - start)


def simple(history: History) -> dict[str, Rival]:
    """Return the naive forecast and, where there is a season, the seasonal one."""
    data, horizon = history.prepared, history.shape.horizon
    rivals = [naive(data, horizon)]
    if history.season > 1:
        rivals.append(seasonal(data, horizon, history.season))
    return {rival.name: rival for rival in rivals}
