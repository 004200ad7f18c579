"""Layers run in segments, of which only the states between them are kept, and the gradient of that.

The backward runs each segment again, by the kernels that run whole sequences, before it differentiates it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recur.cells.cell import Cell, State
from recur.cells.zoneout import masks_for
from recur.compiler import operator
from recur.errors import InputError
from recur.layers.bits import Bits
from recur.layers.parallel import parallel
from recur.layers.plan import Parts
from recur.layers.schedule import kept_at, reversal
from recur.scan import Weights, compiled, scan

Tensors = Sequence[Tensor | None]


class Noise(NamedTuple):
    """What is drawn for a layer in one direction: what dropout keeps of its inputs, and the cell's masks."""

    kept: Bits | None = None
    masks: tuple[Bits, ...] = ()


@dataclass(frozen=True)
class Run:
    """Layers run one after the other in one direction: all that is no tensor to be differentiated."""

    cell: Cell
    noise: tuple[Noise, ...]
    dropout: float
    residual: bool
    backend: str
    reverse: bool
    left: bool
    lengths: Tensor | None
    resets: Tensor | None
    steps: int
    parts: Parts

    def span(self, segment: int) -> tuple[int, int]:
        """Return the first step of a segment and the one behind its last; segments are counted as they run."""
        start, stop = (number * self.steps // self.parts.segments for number in (segment, segment + 1))
        return (self.steps - stop, self.steps - start) if self.reverse else (start, stop)

    def __call__(self, input: Tensor, tensors: Tensors, start: int, stop: int) -> tuple[Tensor, list[Tensor]]:
        """Return the outputs and states of the steps start..stop-1 from their inputs, states and weights."""
        names, layers = self.cell.state_names, len(self.noise)
        states, weights = tensors[: len(names) * layers], tensors[len(names) * layers :]
        lengths, fresh = self._lengths(start, stop), self._fresh(stop)
        resets = None if self.resets is None else self.resets[start:stop]
        finals: list[Tensor] = []
        for layer, noise in enumerate(self.noise):
            read = input
            if noise.kept is not None:
                kept = noise.kept.part(start, stop, input.dtype)
                input = input * (kept.div_(1 - self.dropout) if self.dropout < 1 else kept)
            given = Weights(*weights[6 * layer : 6 * layer + 6])  # type: ignore[arg-type]
            before = dict(zip(names, states[len(names) * layer :], strict=False))
            if fresh is not None:
                before = {name: value.masked_fill(fresh, 0) for name, value in before.items() if value is not None}
            masks = self._masks(noise, given, start, stop, input.shape[1])
            state = State(**before)  # type: ignore[arg-type]
            options: dict[str, Any] = {"reverse": self.reverse, "left": self.left, "resets": resets, "masks": masks}
            if self.backend == "parallel":
                result = parallel(self.cell, input, given, state, lengths, **options)
            else:
                result = scan(self.cell, input, given, state, lengths, backend=self.backend, **options)
            input = read + result.output if self.residual and layer else result.output
            finals += list(result.state)
        return input, finals

    def _lengths(self, start: int, stop: int) -> Tensor | None:
        if self.lengths is None:
            return None
        inside = stop - (self.steps - self.lengths) if self.left else self.lengths - start
        return inside.clamp(0, stop - start)

    def _fresh(self, stop: int) -> Tensor | None:
        """Return where the state that comes in backwards is left behind a mark, [B, 1]."""
        if not self.reverse or self.resets is None or stop >= self.steps:
            return None
        fresh = self.resets[stop]
        if self.lengths is not None:
            fresh = fresh & (stop - 1 >= self.steps - self.lengths if self.left else stop < self.lengths)
        return fresh[:, None]

    def _masks(self, noise: Noise, weights: Weights, start: int, stop: int, batch: int) -> Tensor | None:
        if noise.masks:
            return torch.stack([mask.part(start, stop, weights.ih.dtype) for mask in noise.masks])
        return masks_for(self.cell, stop - start, _like(self.cell, weights, batch), draw=False)


def _like(cell: Cell, weights: Weights, batch: int) -> Tensor:
    return weights.ih.new_empty(()).expand(batch, len(weights.ih) // len(cell.gate_names))


def run_segments(
    run: Run, input: Tensor, before: Sequence[State], layers: Sequence[Weights]
) -> tuple[Tensor, list[State]]:
    """Return the outputs of the last layer and the final states of each, with a gradient of little memory."""
    names = run.cell.state_names
    tensors = [value for state in before for value in state] + [w for weights in layers for w in weights]
    output, *finals = _Segments.apply(run, input, *tensors)  # type: ignore[no-untyped-call]
    each = [finals[i : i + len(names)] for i in range(0, len(finals), len(names))]
    return output, [State(**dict(zip(names, values, strict=True))) for values in each]


class _Segments(torch.autograd.Function):
    """Layers over a sequence, of which the backward runs each segment again before it differentiates it."""

    @staticmethod
    def forward(ctx: Any, run: Run, input: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        count = len(run.cell.state_names) * len(run.noise)
        now, weights = list(tensors[:count]), tensors[count:]
        places = set(kept_at(*run.parts))
        kept: list[Tensor | None] = []
        output: Tensor | None = None
        generators = _generators(run, weights, input)
        for segment in range(run.parts.segments):
            if segment in places:
                kept += now
            start, stop = run.span(segment)
            part, after = run(input[start:stop], (*now, *weights), start, stop)
            if output is None:
                output = part.new_empty(run.steps, *part.shape[1:])
            output[start:stop] = part
            # a state may be a view of all the outputs
            now = [value.clone() for value in after]
            if not segment and not all(map(torch.equal, generators, _generators(run, weights, input))):
                raise InputError(
                    f"`checkpoint` runs steps again, and {run.cell!r} draws other random numbers then: let it ask for "
                    "`masks`, or leave `checkpoint` out"
                )
        assert output is not None
        ctx.run, ctx.count = run, count
        device = input.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.save_for_backward(input, *tensors, *kept)
        ctx.set_materialize_grads(False)
        return (output, *(value for value in now if value is not None))

    @staticmethod
    def backward(ctx: Any, d_output: Tensor | None, *d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        run, count = ctx.run, ctx.count
        inputs = len(ctx.needs_input_grad) - 1
        given, kept = ctx.saved_tensors[:inputs], ctx.saved_tensors[inputs:]
        grads = (d_output, *d_final)
        again = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (*given, *grads))
        with torch.autocast(*ctx.autocast):
            if again or operator._batched(grads):
                return None, *_whole(run, given, grads)
            return None, *_Reversal(run, given, count, ctx.needs_input_grad[1:]).gradients(kept, d_output, d_final)


def _generators(run: Run, weights: Tensors, input: Tensor) -> list[Tensor]:
    """Return the state of the generators that a step might draw from; where it is compiled there are none."""
    assert weights[0] is not None
    if run.backend == "parallel" or compiled(weights[0], input, run.backend):
        return []
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(input.device)] if input.is_cuda else [])]


def _whole(run: Run, given: Tensors, grads: Tensors) -> list[Tensor | None]:
    """Differentiate the whole sequence at once, in grad mode so that it can be differentiated again."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # aliases, so that the gradient is taken with respect to these uses alone
        input, *tensors = [
            value.view_as(value) if value is not None and value.requires_grad else value for value in given
        ]
        assert input is not None
        output, finals = run(input, tensors, 0, run.steps)
        pairs = [(v, d) for v, d in zip((output, *finals), grads, strict=True) if d is not None and v.requires_grad]
        wanted = [v for v in (input, *tensors) if v is not None and v.requires_grad]
        values, cotangents = [v for v, _ in pairs], [d for _, d in pairs]
        found = iter(torch.autograd.grad(values, wanted, cotangents, create_graph=again, allow_unused=True))
    return [next(found) if v is not None and v.requires_grad else None for v in (input, *tensors)]


class _Reversal:
    """The backward of a run: segments from the last to the first."""

    def __init__(self, run: Run, given: Tensors, count: int, wanted: Sequence[bool]) -> None:
        self.run, self.count = run, count
        input, *tensors = given
        assert input is not None
        self.input, self.initial = input, tensors[:count]
        self.d_input = torch.zeros_like(input) if wanted[0] else None
        # leaves of their own: what is below them is not differentiated here
        leaves = [None if w is None else w.detach() for w in tensors[count:]]
        self.weights = [
            w.requires_grad_() if w is not None and want else w
            for w, want in zip(leaves, wanted[1 + count :], strict=True)
        ]
        self.d_weights: list[Tensor | None] = [None] * len(self.weights)

    def gradients(self, kept: Tensors, d_output: Tensor | None, d_final: Tensors) -> list[Tensor | None]:
        """Return the gradients of the input, the initial states and the weights."""
        count, parts = self.count, self.run.parts
        held: dict[int, Tensors] = {0: self.initial}
        for number, place in enumerate(kept_at(*parts)):
            held[place] = kept[count * number : count * (number + 1)]
        d_states: Tensors = d_final
        for kind, start, stop in reversal(*parts):
            if kind == "drop":
                del held[start]
                continue
            states = self._advance(held[start], start, stop)
            if kind == "keep":
                held[stop] = states
            else:
                d_states = self._turn(stop, states, d_output, d_states)
        return [self.d_input, *d_states, *self.d_weights]

    def _advance(self, states: Tensors, start: int, stop: int) -> Tensors:
        with torch.no_grad():
            for segment in range(start, stop):
                a, b = self.run.span(segment)
                states = [v.clone() for v in self.run(self.input[a:b], (*states, *self.weights), a, b)[1]]
        return states

    def _turn(self, segment: int, states: Tensors, d_output: Tensor | None, d_final: Tensors) -> Tensors:
        a, b = self.run.span(segment)
        with torch.enable_grad():
            input = self.input[a:b].detach().requires_grad_(self.d_input is not None)
            leaves = [None if v is None else v.detach().requires_grad_() for v in states]
            output, finals = self.run(input, (*leaves, *self.weights), a, b)
            grads = (None if d_output is None else d_output[a:b], *d_final)
            pairs = [(v, d) for v, d in zip((output, *finals), grads, strict=True) if d is not None and v.requires_grad]
            wanted = [v for v in (input, *leaves, *self.weights) if v is not None and v.requires_grad]
            values, cotangents = [v for v, _ in pairs], [d for _, d in pairs]
            if not pairs:
                return [None] * self.count
            found = iter(torch.autograd.grad(values, wanted, cotangents, allow_unused=True))
        if self.d_input is not None and (d_input := next(found)) is not None:
            self.d_input[a:b] = d_input
        d_states = [next(found) for _ in leaves]
        for place, weight in enumerate(self.weights):
            if weight is None or not weight.requires_grad or (d := next(found)) is None:
                continue
            before = self.d_weights[place]
            # the first is copied: two weights may be given one and the same gradient
            self.d_weights[place] = d.clone() if before is None else before.add_(d)
        return d_states
