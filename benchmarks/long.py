"""Exact gradients of long sequences: time, peak memory, and agreement with plain BPTT where that fits.

    python benchmarks/long.py                        # 10,000, 100,000 and 1,000,000 steps, H = 256, one row
    python benchmarks/long.py --steps 1000 --hidden 64

Each size runs in a process of its own, so that its peak memory is its own: an LSTM whose last state is learned from,
with `checkpoint="sqrt"`, and one with a linear output and a loss at every step, by `recur.segmented`.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

import recur

INPUTS = 16


def inputs(steps: int) -> Tensor:
    """Return noise [T, 1, D]."""
    return torch.randn(steps, 1, INPUTS, generator=torch.Generator().manual_seed(1))


def last_state(hidden: int, steps: int, checkpoint: str | None) -> tuple[float, dict[str, Tensor]]:
    """Take the gradient of a loss of the last state, back to the first step."""
    torch.manual_seed(0)
    layer = recur.LSTM(INPUTS, hidden, checkpoint=checkpoint)
    x = inputs(steps).requires_grad_()
    start = time.perf_counter()
    _, (h, _) = layer(x)
    h.square().sum().backward()
    return time.perf_counter() - start, {"x": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}


class Forecaster(nn.Module):
    """An LSTM that says the next input."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm, self.out = recur.LSTM(INPUTS, hidden), nn.Linear(hidden, INPUTS)


def squared_error(model: Forecaster, state: Any, window: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
    """Return the sum of squared errors over a window."""
    x, y = window
    output, state = model.lstm(x, state)
    return (model.out(output) - y).square().sum(), state


def every_step(hidden: int, steps: int, checkpoint: str | None) -> tuple[float, dict[str, Tensor]]:
    """Take the gradient of the sum of losses at every step."""
    torch.manual_seed(0)
    model, x = Forecaster(hidden), inputs(steps + 1)
    start = time.perf_counter()
    if checkpoint is None:
        squared_error(model, None, (x[:-1], x[1:]))[0].backward()
    else:
        length = max(1, round(steps**0.5))
        windows = [(x[i : i + length + 1][:-1], x[i + 1 : i + length + 1]) for i in range(0, steps, length)]
        recur.segmented(model, squared_error, windows)
    return time.perf_counter() - start, {name: p.grad for name, p in model.named_parameters()}


KINDS = {"last state": last_state, "every step": every_step}


def measure(kind: str, steps: int, hidden: int, threads: int) -> dict[str, float]:
    """Return seconds, peak bytes of the process, and where plain BPTT is small the largest relative difference."""
    torch.set_num_threads(threads)
    KINDS[kind](hidden, 100, "sqrt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds, found = KINDS[kind](hidden, steps, "sqrt")
    result = {"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "before": before}
    if steps <= 10_000:
        result["plain seconds"], plain = KINDS[kind](hidden, steps, None)
        result["difference"] = max(float((found[n] - p).norm() / p.norm()) for n, p in plain.items())
        result["plain peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result


def main() -> None:
    """Measure every size in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", choices=list(KINDS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.steps[0], options.hidden, options.threads)))
        return
    print(f"LSTM, H = {options.hidden}, D = {INPUTS}, one row, float32, {options.threads} thread(s)")
    print(f"{'loss':<11} {'steps':>9} {'seconds':>8} {'µs/step':>8} {'peak memory':>12} {'of torch':>9} plain BPTT")
    for kind in KINDS:
        for steps in options.steps:
            command = [sys.executable, __file__, "--one", kind, "--steps", str(steps), "--hidden", str(options.hidden)]
            command += ["--threads", str(options.threads)]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            line = f"{kind:<11} {steps:>9,} {found['seconds']:>8.2f} {found['seconds'] / steps * 1e6:>8.1f}"
            line += f" {found['peak'] / 1e6:>9.0f} MB {found['before'] / 1e6:>6.0f} MB"
            if "difference" in found:
                line += f" {found['plain seconds']:.2f} s, {found['plain peak'] / 1e6:.0f} MB, "
                line += f"gradients differ by {found['difference']:.1e}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
