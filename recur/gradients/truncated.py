"""Truncated BPTT with a carried state: every k1 steps, gradients through the last k2.

Williams and Peng 1990, An efficient gradient-based algorithm for on-line training of recurrent network trajectories,
Neural Computation 2(4): their BPTT(h; h') has h = k2 and h' = k1. The letters are those of Sutskever 2013, Training
recurrent neural networks, section 2.8.6.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from recur.errors import InputError
from recur.gradients.pieces import (
    Loss,
    call,
    detached,
    joined,
    part_of,
    random_state,
    set_random_state,
    steps_of,
)


class Update(NamedTuple):
    """What a window gave, besides the gradient in `.grad`."""

    loss: float
    """Over the window's steps, before the update."""
    steps: int
    """Steps of the window."""
    through: int
    """Steps that the gradient went through; the longest lag that it reached is one less."""


class TruncatedBPTT:
    """Gradients of a long stream, window by window, with a carried state.

    Each window brings k1 new steps. Its gradient is that of the loss at these steps, through the last k2 steps:

    - k1 = k2, as is usual: every window is differentiated by itself, from the state in which the one before ended.
    - k1 < k2: windows overlap. The k2 - k1 steps before the new ones are run once more, with the weights as they are
      now, from the state that was k2 steps back. Every new step then looks back over at least k2 - k1 steps, and an
      update costs k2 / k1 times as much.
    - k1 > k2: of each k1 steps only the last k2 are learned from; the others carry the state along.

    Weights, optimiser and clipping are the caller's: after each window the gradient stands in `.grad`, added to what
    was there.

    Args:
        module: of any kind.
        loss: `loss(module, state, window) -> (loss, state)`. It is given windows of up to k2 steps, and None for the
            first state; a carried state is made of tensors in tuples, lists, dicts or State. Where documents end inside
            a window, let it hand `window.resets` to the layers.
        k1: steps of a window, and so between two updates. The last window of a stream may be shorter; its gradient goes
            through as many steps less.
        k2: steps that the gradient goes through, k1 if None.
        time: the axis of time in a window's tensors: 0 for [T, B], 1 for [B, T].
        reduction: whether `loss` is the "mean" over steps or their "sum": how parts of a window are put together.

    Raises:
        InputError: a number is not above 0, or `reduction` is something else.

    >>> def loss(module, state, window):
    ...     output, state = module(window[:-1], state)
    ...     return (output - window[1:]).square().mean(), state
    >>> layer = LSTM(4, 4)
    >>> bptt = TruncatedBPTT(layer, loss, k1=20)
    >>> for window in torch.randn(100, 2, 4).split(20):
    ...     update = bptt.step(window)    # then clip, step and zero_grad
    >>> update.steps, update.through
    (20, 20)
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        *,
        k1: int,
        k2: int | None = None,
        time: int = 0,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        for name, value in (("k1", k1), ("k2", k1 if k2 is None else k2)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"`{name}` must be a number of steps above 0, got {value!r}")
        if reduction not in ("mean", "sum"):
            raise InputError(f"`reduction` must be 'mean' or 'sum', got {reduction!r}")
        self.module, self.loss, self.time, self.reduction = module, loss, time, reduction
        self.k1, self.k2 = k1, k1 if k2 is None else k2
        self.reset()

    def reset(self) -> None:
        """Forget the carried state: the next window begins a stream."""
        # of the windows before: the steps that the next gradient goes through, and the state before them
        self._before: Any = None
        self._held, self._state = 0, None

    def updates(self, windows: Iterable[Any]) -> Iterator[Update]:
        """Take one window after the other; the gradient of each stands in `.grad` when it is yielded."""
        for window in windows:
            yield self.step(window)

    def step(self, window: Any, *, scale: float = 1.0) -> Update:
        """Add the gradient of a window to `.grad`.

        Args:
            window: the next steps of the stream, k1 or fewer, a tensor or tensors in tuples, lists or dicts.
            scale: what the loss is multiplied by before it is differentiated.

        Raises:
            InputError: the window is longer than k1 or its tensors differ in length, or `loss` does not return two.
        """
        new = steps_of(window, self.time)
        if not 0 < new <= self.k1:
            raise InputError(f"a window must have 1 to k1 = {self.k1} steps, got {new}")
        held, state = self._held, self._state
        steps = window if not held else joined(self._before, window, self.time)
        total = held + new
        first = max(0, total - self.k2)
        # where the gradient after the next window will begin
        keep = min(total, max(first, total + self.k1 - self.k2))
        loss, learned = 0.0, total - max(first, held)
        if first:
            with torch.no_grad():
                value, state = call(self.loss, self.module, state, part_of(steps, 0, first, self.time))
            loss += _number(value) * self._share(max(0, first - held), new)
        kept = detached(state) if keep == first else None
        objective: Any = 0
        borders = sorted({first, keep, max(first, held), total})
        with torch.enable_grad():
            for start, stop in pairwise(borders):
                value, state = call(self.loss, self.module, state, part_of(steps, start, stop, self.time))
                if start >= held:
                    objective = objective + value * (scale * self._share(stop - start, learned))
                    loss += _number(value) * self._share(stop - start, new)
                if stop == keep:
                    kept = detached(state)
        if not isinstance(objective, torch.Tensor) or not objective.requires_grad:
            raise InputError("`loss` must depend on parameters that require a gradient, and it does not")
        objective.backward()  # type: ignore[no-untyped-call]
        self._held, self._state = total - keep, kept
        self._before = detached(part_of(steps, keep, total, self.time)) if self._held else None
        return Update(loss, new, total - first)

    def _share(self, steps: int, of: int) -> float:
        return steps / of if self.reduction == "mean" else float(steps > 0)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next window starts from, and torch's random numbers: tensors, numbers and strings.

        With the module's, the optimiser's and the data's own state it carries an interrupted training on, to the bit.
        """
        return {
            "k1": self.k1,
            "k2": self.k2,
            "held": self._held,
            "state": _flat(self._state),
            "before": _flat(self._before),
            "random": random_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            InputError: it was returned with another k1 or k2.
        """
        saved, here = ((s["k1"], s["k2"]) for s in (state, {"k1": self.k1, "k2": self.k2}))
        if saved != here:
            raise InputError(
                f"the saved state belongs to k1 = {saved[0]}, k2 = {saved[1]}, not to {here[0]}, {here[1]}"
            )
        self._held = state["held"]
        self._state, self._before = (
            pytree.tree_unflatten(part["leaves"], pytree.treespec_loads(part["layout"]))
            for part in (state["state"], state["before"])
        )
        set_random_state(state["random"])


def _flat(value: Any) -> dict[str, Any]:
    leaves, layout = pytree.tree_flatten(value)
    return {"leaves": leaves, "layout": pytree.treespec_dumps(layout)}


def _number(value: Any) -> float:
    return float(value.detach() if isinstance(value, torch.Tensor) else value)
