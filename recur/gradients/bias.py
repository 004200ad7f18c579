"""How far truncated BPTT's gradient is from the full one, over a sequence and by parameter."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recur.errors import InputError
from recur.gradients.pieces import Loss, call, part_of, steps_of
from recur.gradients.segments import segmented
from recur.gradients.truncated import TruncatedBPTT


@dataclass(frozen=True)
class Difference:
    """A truncated gradient beside the full one; of gradients that are 0 the figures are NaN."""

    cosine: float
    """Of the angle between them: 1 where they point the same way."""
    relative_error: float
    """The norm of what they differ by, as a share of the full one's norm."""
    norm_ratio: float
    """The norm of the truncated one, as a share of the full one's."""


@dataclass(frozen=True)
class Truncation:
    """What one truncation does to the gradient."""

    k1: int
    k2: int
    overall: Difference
    """Over all parameters."""
    parameters: dict[str, Difference]
    """By parameter."""
    longest_lag: int
    """Steps between a loss and the earliest input that it can teach something about, at most."""
    mean_lag: float
    """The same on average over the steps whose loss is learned from."""
    learned: float
    """The share of steps whose loss is learned from: below 1 where k1 > k2."""


@dataclass(frozen=True)
class TruncationBias:
    """What `truncation_bias` found; printed, it is a table."""

    steps: int
    """T."""
    norm: float
    """Of the full gradient."""
    rows: tuple[Truncation, ...]

    def __str__(self) -> str:
        head = f"full BPTT over {self.steps} steps: gradient of norm {self.norm:.4g}"
        lines = [
            f"{'k1':>6} {'k2':>6} {'cosine':>9} {'rel. error':>11} {'norm':>7} {'longest lag':>12} {'mean lag':>9}"
        ]
        for row in self.rows:
            found = row.overall
            lines.append(
                f"{row.k1:>6} {row.k2:>6} {found.cosine:>9.4f} {found.relative_error:>11.4f} {found.norm_ratio:>7.3f} "
                f"{row.longest_lag:>12} {row.mean_lag:>9.1f}"
            )
        return "\n".join([head, *lines])


def truncation_bias(
    module: nn.Module,
    loss: Loss,
    inputs: Any,
    *,
    k2: int | Sequence[int],
    k1: int | None = None,
    time: int = 0,
    reduction: Literal["mean", "sum"] = "mean",
) -> TruncationBias:
    """Measure what truncated BPTT's gradient misses: the sum of all its updates beside full BPTT, weights held fixed.

    The module is in evaluation mode while it is measured; its gradients and mode are then as they were.

    Args:
        module: of any kind.
        loss: as for `recur.TruncatedBPTT`.
        inputs: a sequence, laid out as its windows are.
        k2: steps that the gradient goes through, one or several.
        k1: steps between two updates; as k2 where None.
        time: the axis of time.
        reduction: as for `recur.TruncatedBPTT`.

    Raises:
        InputError: a number is not above 0, or no parameter gets a gradient.

    >>> def loss(module, state, window):
    ...     output, state = module(window, state)
    ...     return output.square().mean(), state
    >>> bias = truncation_bias(LSTM(4, 8), loss, torch.randn(200, 2, 4), k2=[1, 10, 200])
    >>> [row.longest_lag for row in bias.rows], round(bias.rows[-1].overall.cosine, 6)
    ([0, 9, 199], 1.0)
    """
    lengths = [k2] if isinstance(k2, int) else list(k2)
    steps = steps_of(inputs, time)
    if steps < 1 or not lengths or min(lengths) < 1:
        raise InputError(f"`k2` must be numbers of steps above 0 and `inputs` have steps, got {k2} and {steps} steps")
    with _as_it_was(module):
        full = _full(module, loss, inputs, steps, time, reduction)
        norm = math.sqrt(sum(float(value.double().square().sum()) for value in full.values()))
        if not norm > 0:
            raise InputError(f"full BPTT gives a gradient of norm {norm}; `loss` must depend on trainable parameters")
        rows = tuple(
            _row(module, loss, inputs, full, steps, length if k1 is None else k1, length, time, reduction)
            for length in lengths
        )
    return TruncationBias(steps, norm, rows)


def _row(
    module: nn.Module,
    loss: Loss,
    inputs: Any,
    full: dict[str, Tensor],
    steps: int,
    k1: int,
    k2: int,
    time: int,
    reduction: Literal["mean", "sum"],
) -> Truncation:
    bptt = TruncatedBPTT(module, loss, k1=k1, k2=k2, time=time, reduction=reduction)
    longest, lags, learned = 0, 0, 0
    for start in range(0, steps, k1):
        stop = min(start + k1, steps)
        share = (stop - start) / steps if reduction == "mean" else 1.0
        through = bptt.step(part_of(inputs, start, stop, time), scale=share).through
        begin = stop - through
        longest = max(longest, through - 1)
        lags += sum(step - begin for step in range(max(start, begin), stop))
        learned += stop - max(start, begin)
    found = _gradients(module)
    names = [name for name in full if name in found]
    each = {name: _difference([full[name]], [found[name]]) for name in names}
    overall = _difference(list(full.values()), [found.get(name, torch.zeros_like(v)) for name, v in full.items()])
    return Truncation(k1, k2, overall, each, longest, lags / learned, learned / steps)


def _full(module: nn.Module, loss: Loss, inputs: Any, steps: int, time: int, reduction: str) -> dict[str, Tensor]:
    length = max(64, math.isqrt(steps - 1) + 1)

    def shared(module: nn.Module, state: Any, segment: Any) -> tuple[Any, Any]:
        value, state = call(loss, module, state, segment)
        return value * (steps_of(segment, time) / steps if reduction == "mean" else 1.0), state

    segmented(module, shared, [part_of(inputs, at, min(at + length, steps), time) for at in range(0, steps, length)])
    return _gradients(module)


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return the gradients that came together, and clear them."""
    found = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
            parameter.grad = None
    return found


def _difference(full: list[Tensor], truncated: list[Tensor]) -> Difference:
    def dot(first: list[Tensor], second: list[Tensor]) -> float:
        return sum(float((a.double() * b.double()).sum()) for a, b in zip(first, second, strict=True))

    a, b = math.sqrt(dot(full, full)), math.sqrt(dot(truncated, truncated))
    apart = [f.double() - t.double() for f, t in zip(full, truncated, strict=True)]
    cosine = dot(full, truncated) / (a * b) if a and b else math.nan
    return Difference(cosine, math.sqrt(dot(apart, apart)) / a if a else math.nan, b / a if a else math.nan)


@contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; mode, gradients and random numbers as before afterwards."""
    modes = {part: part.training for part in module.modules()}
    gradients = {parameter: parameter.grad for parameter in module.parameters()}
    for parameter in gradients:
        parameter.grad = None
    module.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for part, training in modes.items():
            part.training = training
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
