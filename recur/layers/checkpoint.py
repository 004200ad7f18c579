"""Exact BPTT with chosen memory, `checkpoint=` of every recurrent layer: when it is done, what is drawn, what it needs.

Layers that read forwards alone are run as one, so that the outputs of inner ones are not kept either. Of a
bidirectional layer each direction is run by itself, for the next layer reads both.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from recur.cells.cell import Cell, State
from recur.compiler import operator
from recur.compiler.plan import plan_backward
from recur.errors import InputError
from recur.layers.bits import Bits, drawn, drawn_for_dropout
from recur.layers.plan import CheckpointPlan, Needs, Parts, check_checkpoint, parts_of, plan_for
from recur.layers.segments import Noise, Run, run_segments
from recur.scan import Weights, compiled, equation_text

Layers = Sequence[Sequence[Weights]]

# a step's share of the memory is what these lengths differ by
PROBES = (4, 20)
# what autograd takes for an operation that saves a tensor, besides its numbers, where every step has its own: measured
NODE_BYTES = 3000


def in_segments(
    cell: Cell,
    layers: Layers,
    input: Tensor,
    state: State,
    lengths: Tensor | None,
    *,
    left: bool,
    resets: Tensor | None,
    dropout: float,
    recurrent_dropout: float,
    residual: bool,
    training: bool,
    backend: str,
    checkpoint: int | str,
) -> tuple[Tensor, list[State]] | None:
    """Return outputs and final states, by layer and direction, of layers run in segments; arguments as `run_stack`.

    None, and nothing drawn, where there is no need: without gradient, where the plan is the whole sequence, and under
    torch.compile and torch.func, which differentiate in their own way.

    Raises:
        InputError: the memory is too small for any plan, or the cell draws random numbers that are no masks.
    """
    flat = [w for directions in layers for weights in directions for w in weights]
    if not _differentiated((input, *state, *flat)):
        return None
    steps, batch = input.shape[:2]

    def needs() -> Needs:
        return needs_of(cell, layers, batch, dropout, training, backend)

    parts = parts_of(checkpoint, steps, needs)
    if parts.segments == 1:
        return None
    noise, layers = _draw(cell, layers, steps, batch, dropout, recurrent_dropout, training)

    def run(noise: Sequence[Noise], reverse: bool) -> Run:
        return Run(cell, tuple(noise), dropout, residual, backend, reverse, left, lengths, resets, steps, parts)

    before = [state.map(lambda value, index=index: value[index]) for index in range(len(state.h))]  # type: ignore[misc]
    finals: list[State] = []
    if len(layers[0]) == 1:
        return run_segments(run([one for (one,) in noise], False), input, before, [one for (one,) in layers])
    for number, (directions, drawn_for) in enumerate(zip(layers, noise, strict=True)):
        outputs = []
        for direction, weights in enumerate(directions):
            part = run([drawn_for[direction]], direction == 1)
            output, found = run_segments(part, input, [before[len(finals)]], [weights])
            outputs.append(output)
            finals += found
        output = torch.cat(outputs, dim=-1)
        input = input + output if residual and number else output
    return input, finals


def _differentiated(tensors: Sequence[Tensor | None]) -> bool:
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    return any(t is not None and t.requires_grad for t in tensors) and not operator.transformed(tensors)


def _draw(
    cell: Cell,
    layers: Layers,
    steps: int,
    batch: int,
    dropout: float,
    recurrent_dropout: float,
    training: bool,
) -> tuple[list[list[Noise]], list[list[Weights]]]:
    """Return what a run of the whole sequence would draw, in its order, and the weights that are left."""
    found: list[list[Noise]] = []
    kept_weights: list[list[Weights]] = []
    for number, directions in enumerate(layers):
        kept, noise, left = None, [], []
        if number and dropout and training:
            kept = drawn_for_dropout(dropout, directions[0].ih, (steps, batch, directions[0].ih.shape[1]))
        for weights in directions:
            if recurrent_dropout and weights.hh is not None:
                weights = weights._replace(hh=F.dropout(weights.hh, recurrent_dropout, training))
            shape = (steps, batch, len(weights.ih) // len(cell.gate_names))
            rates = [cell.mask_rates[name] for name in cell.mask_names] if training else []
            noise.append(Noise(kept, tuple(drawn(rate, weights.ih, shape) for rate in rates)))
            left.append(weights)
        found.append(noise)
        kept_weights.append(left)
    return found, kept_weights


class Layer(Protocol):
    """What `checkpoint_plan` asks of a layer."""

    checkpoint: int | str | None
    dropout: float
    backend: str
    training: bool

    @property
    def cell(self) -> Cell:
        """The equation."""

    def weights(self) -> list[list[Weights]]:
        """Return the weights of each layer and direction."""


def checkpoint_plan(layer: Layer, steps: int, batch: int = 1, checkpoint: int | str | None = None) -> CheckpointPlan:
    """Return what `checkpoint=` keeps and runs again for a layer, before it is done.

    Args:
        layer: RNN, LSTM, GRU or Recurrent, in the mode and with the backend that are meant.
        steps: T.
        batch: B.
        checkpoint: "sqrt", a number of kept states, or an amount of memory, such as "500MB"; the layer's own if None.

    Raises:
        InputError: it is another module, a number is not above 0, or the memory is too small for any plan.

    >>> print(checkpoint_plan(LSTM(8, 16), steps=10_000, batch=4, checkpoint=20))  # doctest: +SKIP
    sequence   10000 steps, 4 rows
    segments   100 of up to 100 steps, 317 KB each
    kept       20 states of 512 bytes
    peak       327 KB, without checkpoint 31.7 MB
    cost       1.79 times the forward pass is run again
    """
    if not hasattr(layer, "checkpoint"):
        raise InputError(f"`layer` must be RNN, LSTM, GRU or Recurrent of recur, got {type(layer).__name__}")
    for name, value in (("steps", steps), ("batch", batch)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"`{name}` must be a whole number above 0, got {value!r}")
    asked = check_checkpoint(layer.checkpoint if checkpoint is None else checkpoint)
    needs = needs_of(layer.cell, layer.weights(), batch, layer.dropout, layer.training, layer.backend)
    return plan_for(parts_of(asked, steps, lambda: needs), steps, batch, needs)


_measured: dict[tuple[Any, ...], Needs] = {}


def needs_of(cell: Cell, layers: Layers, batch: int, dropout: float, training: bool, backend: str) -> Needs:
    """Return what layers need of memory for B rows, measured once by running a few steps."""
    like = layers[0][0].ih
    shapes = tuple(None if w is None else w.shape for directions in layers for weights in directions for w in weights)
    key = (type(cell), repr(cell), len(layers), shapes, like.dtype, like.device, batch, dropout, training, backend)
    if key not in _measured:
        _measured[key] = _measure(cell, layers, batch, dropout if training else 0.0, training, backend)
    return _measured[key]


def _measure(cell: Cell, layers: Layers, batch: int, dropout: float, training: bool, backend: str) -> Needs:
    names, itemsize = cell.state_names, layers[0][0].ih.element_size()
    sizes = [_sizes(cell, weights) for directions in layers for weights in directions]
    hidden, outputs = sizes[0]
    state = sum(batch * itemsize * (outputs if name == "h" else hidden) for name in names for _ in sizes)
    alone = len(layers[0]) > 1
    runs = [[w] for directions in layers for w in directions] if alone else [[w for (w,) in layers]]
    step = max(_step_bytes(cell, run, batch, dropout, training, backend, alone) for run in runs)
    masks = [len(directions) * outputs for directions in layers[1:]] if dropout else []
    masks += [hidden for _ in sizes for _ in cell.mask_names] if training else []
    drawn_at_once = max(masks, default=0) * batch * (4 if layers[0][0].ih.is_cpu else itemsize)
    return Needs(state, step, sum(batch * -(-size // 8) for size in masks), drawn_at_once)


def _sizes(cell: Cell, weights: Weights) -> tuple[int, int]:
    """Return H, and P or H."""
    hidden = len(weights.ih) // len(cell.gate_names)
    return hidden, hidden if weights.hr is None else len(weights.hr)


def _step_bytes(
    cell: Cell, layers: Sequence[Weights], batch: int, dropout: float, training: bool, backend: str, inner: bool
) -> int:
    """Return what a step of layers in one direction needs while it is differentiated."""
    few, many = (_saved_bytes(cell, layers, batch, steps, dropout, training, backend, inner) for steps in PROBES)
    saved = -(-(many - few) // (PROBES[1] - PROBES[0]))
    # the gradients of what the gates are made of and of the inputs, of one layer at a time, and of its outputs
    gates = len(cell.gate_names)
    if backend != "parallel" and compiled(layers[0].ih, layers[0].ih, backend):
        gates = len(plan_backward(equation_text(cell), False).gradient_dims)
    sizes = [(*_sizes(cell, w), w.ih.shape[1]) for w in layers]
    more = max(gates * hidden + max(outputs, width) for hidden, outputs, width in sizes)
    if len(layers) > 1:
        more += max(outputs for _, outputs, _ in sizes)
    # blocks are rounded up by up to an eighth, see `recur.compiler.memory`
    return (saved + batch * more * layers[0].ih.element_size()) * 9 // 8


def _saved_bytes(
    cell: Cell,
    layers: Sequence[Weights],
    batch: int,
    steps: int,
    dropout: float,
    training: bool,
    backend: str,
    inner: bool,
) -> int:
    first = layers[0].ih
    noise = []
    for number, weights in enumerate(layers):
        ones = torch.ones(steps, batch, weights.ih.shape[1], device=first.device)
        masks = torch.ones(steps, batch, _sizes(cell, weights)[0], device=first.device)
        kept = Bits(ones) if dropout and (number or inner) else None
        noise.append(Noise(kept, tuple(Bits(masks) for _ in cell.mask_names) if training else ()))
    run = Run(cell, tuple(noise), dropout, False, backend, False, False, None, None, steps, Parts(1, 1))
    hidden, outputs = _sizes(cell, layers[0])
    states = [first.new_zeros(batch, outputs if name == "h" else hidden) for name in cell.state_names] * len(layers)
    tensors = [*states, *(w for weights in layers for w in weights)]
    input = first.new_zeros(steps, batch, first.shape[1])
    given = {t.untyped_storage().data_ptr() for t in (input, *tensors) if t is not None}
    held: dict[int, dict[tuple[int, int], Tensor]] = {}
    count = 0

    def note(value: Tensor) -> Tensor:
        nonlocal count
        storage = value.untyped_storage().data_ptr()
        if storage not in given:
            count += 1
            held.setdefault(storage, {})[value.data_ptr(), value.numel()] = value.detach()
        return value

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        result = run(input, [t if t is None else t.detach().requires_grad_() for t in tensors], 0, steps)
    del result
    # of views the storage counts, but not where that is rounded up
    total = sum(
        min(next(iter(views.values())).untyped_storage().nbytes(), sum(view.nbytes for view in views.values()))
        for views in held.values()
    )
    return total + count * NODE_BYTES
