"""Exact gradients of a loss over a long sequence, in the memory of one of its segments."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from recur.errors import InputError
from recur.gradients.pieces import Loss, call, detached, random_state, set_random_state
from recur.layers.schedule import kept_at, reversal


class Segmented(NamedTuple):
    """What `segmented` returns."""

    loss: float
    """The sum over all segments."""
    state: Any
    """The state after the last one, without history."""


def segmented(
    module: nn.Module,
    loss: Loss,
    segments: Sequence[Any],
    state: Any = None,
    *,
    checkpoint: int | Literal["sqrt"] | None = None,
) -> Segmented:
    """Add the gradient of the sum of all segments' losses to `.grad`, as backward() of the whole sequence would.

    Only states are kept, those between the segments, or fewer of them; every segment is run again before it is
    differentiated, with the random numbers of the first time. So a model with a loss at every step, whose outputs would
    not fit into memory, is trained on a sequence of any length, exactly.

    Args:
        module: of any kind.
        loss: `loss(module, state, segment) -> (loss, state)`, one number to be summed, and what the next segment starts
            from: tensors in tuples, lists, dicts or State.
        segments: parts of the sequence, in order, whatever `loss` takes; each is asked for by its number several times,
            so that they may be read from disk, as `recur.data.StreamWindows` does.
        state: what the first segment starts from. Tensors in it that require a gradient get one.
        checkpoint: None keeps the state between any two segments, and each segment is run forward twice; a number keeps
            so many at once and runs more again, by the optimal schedule of Griewank & Walther 2000; "sqrt" about √n.

    What a module does besides, such as the running statistics of batch normalisation, is done at every run.

    Raises:
        InputError: there are no segments, or `loss` does not return these two.

    >>> def loss(module, state, segment):
    ...     output, state = module(segment, state)
    ...     return output.square().sum(), state
    >>> x = torch.randn(1000, 1, 4)
    >>> segmented(LSTM(4, 8), loss, x.split(100)).state[0].shape
    torch.Size([1, 1, 8])
    """
    count = len(segments)
    if not count:
        raise InputError("`segments` must hold at least one segment, got none")
    return _Segments(module, loss, segments, state, _places(checkpoint, count)).run()


def _places(checkpoint: int | str | None, segments: int) -> int:
    if checkpoint is None:
        return segments
    if checkpoint == "sqrt":
        return math.isqrt(segments - 1) + 1
    if isinstance(checkpoint, bool) or not isinstance(checkpoint, int) or checkpoint < 1:
        raise InputError(f"`checkpoint` must be a number of kept states above 0, 'sqrt' or None, got {checkpoint!r}")
    return min(segments, checkpoint + 1)


class _Held(NamedTuple):
    state: Any
    random: list[Tensor]


class _Segments:
    """One run: forward to where states are kept, then segment by segment from the last to the first."""

    def __init__(self, module: nn.Module, loss: Loss, segments: Sequence[Any], state: Any, places: int) -> None:
        self.module, self.loss, self.segments, self.places = module, loss, segments, places
        self.given = state
        self.total: float | Tensor = 0.0
        self.after: Any = None
        self.random: list[Tensor] = []

    def run(self) -> Segmented:
        count = len(self.segments)
        held = {0: _Held(detached(self.given), random_state())}
        place = 0
        for next_place in kept_at(count, self.places):
            held[next_place] = self._advance(held[place], place, next_place)
            place = next_place
        grads: list[Tensor | None] | None = None
        for kind, start, stop in reversal(count, self.places):
            if kind == "drop":
                del held[start]
            elif kind == "keep":
                held[stop] = self._advance(held[start], start, stop)
            else:
                grads = self._turn(stop, self._advance(held[start], start, stop), grads)
        set_random_state(self.random)
        pairs = zip(pytree.tree_leaves(self.given), grads or [], strict=True)
        roots = [(v, d) for v, d in pairs if isinstance(v, Tensor) and v.requires_grad and d is not None]
        if roots:
            torch.autograd.backward([v for v, _ in roots], [d for _, d in roots])
        return Segmented(float(self.total), self.after)

    def _advance(self, held: _Held, start: int, stop: int) -> _Held:
        if start == stop:
            return held
        set_random_state(held.random)
        state = held.state
        with torch.no_grad():
            for number in range(start, stop):
                state = call(self.loss, self.module, state, self.segments[number])[1]
        return _Held(detached(state), random_state())

    def _turn(self, number: int, held: _Held, grads: list[Tensor | None] | None) -> list[Tensor | None]:
        set_random_state(held.random)
        leaves, layout = pytree.tree_flatten(held.state)
        leaves = [_leaf(value) for value in leaves]
        with torch.enable_grad():
            value, state = call(self.loss, self.module, pytree.tree_unflatten(leaves, layout), self.segments[number])
        ends = pytree.tree_leaves(state)
        if number == len(self.segments) - 1:
            self.after, self.random = detached(state), random_state()
            grads = [None] * len(ends)
        assert grads is not None
        self.total = self.total + (value.detach() if isinstance(value, Tensor) else value)
        pairs = [(value, None), *zip(ends, grads, strict=True)]
        pairs = [(v, d) for i, (v, d) in enumerate(pairs) if (d is not None or not i) and isinstance(v, Tensor)]
        pairs = [(v, d) for v, d in pairs if v.requires_grad]
        if pairs:
            torch.autograd.backward([v for v, _ in pairs], [d for _, d in pairs])
        return [leaf.grad if isinstance(leaf, Tensor) else None for leaf in leaves]


def _leaf(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().requires_grad_(value.is_floating_point() or value.is_complex())
