"""The task forecast: series to the steps behind them."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recur.data.windows import WindowBatches
from recur.errors import InputError
from recur.models.forecaster import Forecaster, ForecasterConfig
from recur.tasks.forecast.baselines import linear, mean, simple
from recur.tasks.forecast.data import PARTS, History, read_history
from recur.tasks.forecast.model import ForecastObjective
from recur.tasks.forecast.options import ForecastOptions
from recur.tasks.forecast.predictor import ForecastPredictor
from recur.tasks.forecast.report import Drawn, report
from recur.tasks.forecast.scores import score, show
from recur.tasks.forecast.scoring import network_errors, pictures, scale_of, simple_errors
from recur.tasks.job import Baseline, Figure, Member, Result, Scored, Setup, Task, TaskReport, Trained
from recur.tasks.progress import Progress

LONGEST_SEGMENT = 48


class Forecast(Task[ForecastOptions, History]):
    """From tables of numbers by time to trained forecasters."""

    name = "forecast"
    options = ForecastOptions
    figure = Figure("mse", show, rising=False, unit="windows")

    def read(self, options: ForecastOptions, progress: Progress) -> History:
        """Read the tables, cut them in time, and scale them by what lies before the first cut."""
        history = read_history(options)
        panel, shape = history.panel, history.shape
        progress.say(
            f"{len(panel.values):,} steps of {panel.clock.step_text}, {len(panel):,} series of {history.targets} "
            f"columns; {shape.horizon} steps from a window of {shape.window}, season {history.season}"
        )
        return history

    def setup(self, options: ForecastOptions, data: History) -> Setup:
        """Make the network and batches of windows."""
        (seed,), shape, prepared = options.seed, data.shape, data.prepared
        values = len(data.columns.values)
        network = ForecasterConfig(
            **options.network(ForecasterConfig)
            | {
                "window": shape.window,
                "horizon": shape.horizon,
                "values": 1 + values - data.targets if shape.apart else values,
                "targets": 1 if shape.apart else values if shape.fed else data.targets,
                "flags": shape.flags,
                "known": prepared.known.shape[1],
                "static": prepared.static.shape[1],
                "channels": data.targets if shape.apart and data.targets > 1 and options.channel_vectors else 0,
                "segment": _segment(options, shape.window),
                "quantiles": options.levels,
            }
        )
        train, validation = (
            data.origins("train", options.stride),
            data.origins("validation", options.test_stride),
        )
        return Setup(
            ForecastObjective(Forecaster(network), data.targets if shape.fed else None),
            WindowBatches(prepared, shape, train, options.batch_size, seed),
            WindowBatches(prepared, shape, validation, options.batch_size, shuffle=False),
            config={
                "network": dataclasses.asdict(network),
                "columns": dataclasses.asdict(data.columns),
                "calendar": data.calendar,
                "targets": data.targets,
                "apart": shape.apart,
                "season": data.season,
                "clock": dataclasses.asdict(data.panel.clock),
                "cuts": data.cuts,
                "scaler": data.scaler.plain(),
                "changes": np.where(np.isnan(data.changes), None, data.changes).tolist(),  # type: ignore[call-overload]
            },
        )

    def score(self, options: ForecastOptions, data: History, trained: list[Trained], progress: Progress) -> Scored:
        """Forecast from each time of validation and test part, by each network and each baseline."""

        def seen(what: str) -> Callable[[float], None]:
            return lambda share: progress.share(what, share)

        parts = {name: data.origins(name, options.test_stride) for name in PARTS[1:]}
        scale = scale_of(data, options.levels)
        rivals = simple(data)
        if options.baselines:
            progress.say("baseline linear")
            rivals["mean"] = mean(data.prepared, data.shape)
            rivals["linear"] = linear(data, data.origins("train"), parts["validation"])
        found = {part: simple_errors(rivals.values(), data, rows) for part, rows in parts.items()}
        naive = {
            part: {name: errors for name, (errors, _) in by_name.items() if name.endswith("naive")}
            for part, by_name in found.items()
        }
        members = []
        for one in trained:
            errors = {
                part: network_errors(
                    one.model, data, rows, options.levels, seen(f"{one.name} foretells the {part} part")
                )
                for part, rows in parts.items()
            }
            scores = {part: score(errors[part], naive[part], scale) for part in parts}
            members.append(Member(one, scores["validation"], scores["test"], shown=errors["test"]))
        baselines = [
            Baseline(
                name,
                rival.description,
                found["validation"][name][0].mse,
                found["test"][name][0].mse,
                rival.seconds + sum(found[part][name][1] for part in parts),
                found["test"][name][0].interval(),
            )
            for name, rival in rivals.items()
        ]
        notes = [
            f"{member.trained.name}: {note}" if len(members) > 1 else note
            for member in members
            for note in member.test.notes
        ]
        best = min(members, key=lambda member: member.validation.mse)
        drawn = Drawn(
            {name: errors for name, (errors, _) in found["test"].items()},
            pictures(best.trained.model, data, parts["test"], options.levels, best.shown, rivals, options.pictures),
        )
        rows = {"train": len(data.origins("train", options.stride))} | {name: len(own) for name, own in parts.items()}
        return Scored(members, baselines, rows, notes, extra=drawn)

    def facts(self, result: Result[History], member: Member) -> dict[str, Any]:
        """Return what was foretold from what, and the errors at each step of the horizon."""
        history, errors = result.data, member.shown
        return {
            "horizon": history.shape.horizon,
            "window": history.shape.window,
            "season": history.season,
            "step": history.panel.clock.step_text,
            "series": len(history.panel),
            "mse_by_step": errors.steps().tolist(),
            "baseline_mae": {name: other.mae for name, other in result.extra.rivals.items()},
        }

    def report(self, result: Result[History]) -> TaskReport:
        """Return forecasts beside what came, errors by step of the horizon and by origin."""
        return report(result)

    def build(self, config: Mapping[str, Any]) -> Forecaster:
        """Make the forecaster."""
        return Forecaster(ForecasterConfig(**config["network"]))

    def load(self, folder: Path, config: Mapping[str, Any], model: Any) -> ForecastPredictor:
        """Make the predictor."""
        return ForecastPredictor(folder, config, model)


def _segment(options: ForecastOptions, window: int) -> int:
    if options.form != "segments":
        return 1
    if options.segment is None:
        longest = min(LONGEST_SEGMENT, options.horizon, window)
        return max(size for size in range(1, longest + 1) if window % size == 0)
    if window % options.segment:
        raise InputError(f"--segment must divide the window, {window} steps, got {options.segment}")
    return options.segment


FORECAST = Forecast()
