"""The one operation: a cell over a sequence, in one direction, with rows of any length.

`scan` gives the same numbers on each of its backends: "cpu", kernels compiled from the equation; "torch", the kernels
behind torch.nn, for the cells that they know; and "reference", the equation itself in a Python loop, for any cell,
device and dtype and under every transform. Nothing above this file knows which one runs.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recur.cells.cell import Cell, Gates, Named, Products, Projection, State, Units
from recur.compiler import machine, operator
from recur.compiler.call import DTYPES, Call
from recur.compiler.eager import Unrolled, valid_steps
from recur.compiler.operator import constant
from recur.compiler.trace import trace
from recur.compiler.weights import Weights as Weights
from recur.errors import InputError

BACKENDS = ("auto", "reference", "cpu", "cpu-bfloat16", "torch")
COMPILED = ("cpu", "cpu-bfloat16")

# what shuts a gate for good: sigmoid of ±SHUT is exactly 0 or 1 whatever else is added; float16 has no larger number
SHUT, SHUT_FLOAT16 = 1e30, 3e4
# for each kernel that needs it, the sign of SHUT for every gate: c is held and h is 0, a ReLU network's h is 0
SHUTTING = {"lstm": (-1, 1, 0, -1), "rnn_relu": (-1,)}


class Scanned(NamedTuple):
    """What a scan gives.

    `output` [T, B, H], zero at padded steps; `state` after each row's last step in scan order, [B, H] each; on request
    `states`, those after every step [T, B, H], and `gates` [T, B, G, H], both zero at padded steps.
    """

    output: Tensor
    state: State
    states: State | None = None
    gates: Tensor | None = None


def scan(
    cell: Cell,
    input: Tensor,
    weights: Weights,
    state: State,
    lengths: Tensor | None = None,
    *,
    reverse: bool = False,
    left: bool = False,
    resets: Tensor | None = None,
    masks: Tensor | None = None,
    states: bool = False,
    gates: bool = False,
    backend: str = "auto",
) -> Scanned:
    """Run `cell` over a sequence.

    Args:
        cell: the recurrence.
        input: [T, B, D].
        weights: the layer's weights for this direction.
        state: the state before the first step, each tensor [B, H] (h [B, P] where projected).
        lengths: valid steps of each row, [B] int64 in 0..T, or None where all have T. Padded steps change nothing.
        reverse: start at each row's last valid step and go backwards.
        left: whether the padding stands before the valid steps instead of after them.
        resets: bool [T, B]: steps before which a row begins anew, from a state of zeros. Backwards too, the steps from
            one such place to the next belong together.
        masks: per-step masks [M, T, B, H] of a cell that asks for them, in its order.
        states: whether to return the states after every step.
        gates: whether to return the gates' values: the activation of its pre-activation, or the pre-activation itself
            where the equation uses that in several places. No gradient flows through them.
        backend: "cpu", "cpu-bfloat16" (as "cpu", with weights kept as bfloat16 where no gradient is asked for, in
            float32, if the processor has instructions for it), "torch", "reference", or "auto": the environment
            variable RECUR_BACKEND if that is set, else compiled kernels on CPUs for float32 and float64, elsewhere
            torch's where it has the cell, else the reference.

    Returns:
        the outputs and the state after each row's last step in scan order; a row of length 0 keeps its initial state.
        They are of the weights' type, under autocast too; only torch's kernels then give autocast's.

    Raises:
        InputError: the backend does not exist or cannot run this.
        NotTraceable: the equation holds something that cannot be compiled.
    """
    if not input.shape[0]:
        raise InputError("`input` must have at least one step, got T = 0")
    if cell.masks and (masks is None or len(masks) != len(cell.mask_names)):
        raise InputError(f"cell {type(cell).__name__} needs `masks` for {', '.join(cell.mask_names)}")
    known = lengths is None or readable(lengths)
    plain = not (left or states or gates) and resets is None and masks is None and known
    chosen = choose(cell, input, weights, state, backend, plain=plain, masks=masks)
    if chosen in COMPILED:
        # what autocast has made of an input or state is taken back: kernels compute in the weights' type
        dtype = weights.ih.dtype
        call = Call(
            equation_text(cell),
            _as(input, dtype),
            weights,
            [_as(value, dtype) for value in state],
            lengths if lengths is None or lengths.dtype == torch.int64 else lengths.long(),
            resets,
            None if masks is None else _as(masks, dtype),
            reverse,
            left,
        )
        return _compiled(state, call, states, gates, chosen == "cpu-bfloat16")
    if chosen == "torch":
        kernel = cell.torch_kernel
        assert kernel is not None
        return Scanned(*_torch(kernel, input, weights, state, lengths, reverse))
    options = {"reverse": reverse, "left": left, "resets": resets, "masks": masks, "states": states, "gates": gates}
    return _reference(cell, input, weights, state, lengths, **options)  # type: ignore[arg-type]


def readable(value: Tensor) -> bool:
    """Whether the numbers of a tensor can be looked at now: not under torch.compile, torch.func, tracing or on meta."""
    return not (torch.compiler.is_compiling() or operator.watched() or value.is_meta or type(value) not in operator.OWN)


def check_backend(backend: str) -> str:
    """Return `backend`.

    Raises:
        InputError: there is no such backend.
    """
    if backend not in BACKENDS:
        raise InputError(f"`backend` must be one of {', '.join(BACKENDS)}, got {backend!r}")
    return backend


def compiled(weight: Tensor, input: Tensor, backend: str) -> str | None:
    """Return which of the compiled backends runs these, as far as device, type and `backend` say; None if none does."""
    asked = _asked(backend)
    return (asked if asked in COMPILED else "cpu") if _fits(weight, input, asked) else None


def _fits(weight: Tensor, input: Tensor, asked: str) -> bool:
    if asked != "auto" and asked not in COMPILED:
        return False
    fits = weight.is_cpu and weight.dtype in DTYPES and input.is_cpu
    if asked in COMPILED and not fits:
        raise InputError(
            f"`backend` {asked!r} runs float32 and float64 on a CPU, got weights of {weight.dtype} on "
            f"{weight.device.type} and an input on {input.device.type}"
        )
    return fits and (asked in COMPILED or _available())


@constant
def _available() -> bool:
    return machine.available() is None


@constant
def _asked(backend: str) -> str:
    asked = check_backend(backend)
    if asked == "auto":
        asked = os.environ.get("RECUR_BACKEND") or "auto"
        if asked not in BACKENDS:
            raise InputError(f"RECUR_BACKEND must be one of {', '.join(BACKENDS)}, found {asked!r}")
    return asked


def choose(
    cell: Cell,
    input: Tensor,
    weights: Weights,
    state: State,
    backend: str,
    *,
    plain: bool,
    masks: Tensor | None = None,
) -> str:
    """Return the backend that runs these inputs."""
    asked = _asked(backend)
    if asked == "torch" and (cell.torch_kernel is None or not plain):
        lacks = repr(cell)
        if cell.torch_kernel is not None:
            lacks = "left padding, resets, masks, all states, gates, or lengths under torch.compile or torch.func"
        raise InputError(f"`backend` 'torch' has no kernel for {lacks}; use 'auto' or 'reference'")
    if asked in ("reference", "torch"):
        return asked
    fits = _fits(weights.ih, input, asked)
    # masks get a gradient from the reference alone
    if _transformed((input, *weights, *state, masks)) or (
        masks is not None and masks.requires_grad and torch.is_grad_enabled()
    ):
        return "reference"
    if fits:
        return asked if asked in COMPILED else "cpu"
    return "torch" if cell.torch_kernel is not None and plain else "reference"


def _transformed(tensors: Iterable[Tensor | None]) -> bool:
    # torch.compile cannot look for tangents
    return _transforms() if torch.compiler.is_compiling() else operator.transformed(tensors)


@constant
def _transforms() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0


def equation_text(cell: Cell) -> str:
    """Return the traced equation as text, see `recur.compiler.graph`.

    torch.compile takes it when it compiles, and again when the cell is another or one of its options has changed, but
    not when something else has that `step` reads, such as a global variable.
    """
    if torch.compiler.is_compiling():
        return _text(cell, *_options(cell))
    kind = type(cell)
    if not kind.__module__.startswith("recur.cells."):
        return trace(cell).text
    # what a cell of recur's depends on does not change, unless an option is a function or another cell
    key = (kind, *cell.__dict__.items())
    try:
        return _texts[key]
    except (KeyError, TypeError):
        text = trace(cell).text
    if all(value is None or isinstance(value, str) for value in cell.__dict__.values()):
        _texts[key] = text
    return text


_texts: dict[tuple[Any, ...], str] = {}


@constant
def _text(cell: Cell, *watched: Any) -> str:
    return trace(cell).text


@constant
def _option_names(cell: Cell) -> tuple[str, ...]:
    return tuple(vars(cell))


def _options(cell: Cell) -> list[Any]:
    values: list[Any] = []
    for name in _option_names(cell):
        value = getattr(cell, name)
        # a number itself would become a variable of the graph once it has changed
        values += _options(value) if isinstance(value, Cell) else [hash(value) if isinstance(value, float) else value]
    return values


def _compiled(state: State, call: Call, states: bool, gates: bool, half: bool) -> Scanned:
    output, *rest = operator.scan(call, states=states, gates=gates, half=half)
    names = [name for name, _ in state.items()]
    after = State(**dict(zip(names, rest, strict=False)))
    every = None
    if states:
        others = dict(zip([name for name in names if name != "h"], rest[len(names) :], strict=False))
        every = State(**{name: output if name == "h" else others[name] for name in names})
    return Scanned(output, after, every, rest[-1] if gates else None)


def _as(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value if value.dtype == dtype else value.to(dtype)


def bind(cell: Cell, weights: Weights) -> tuple[Products, Units, Projection | None]:
    """Return what an equation calls: U with a product for each gate, p, and P."""
    names = cell.recurrent_names
    blocks = () if weights.hh is None else weights.hh.chunk(len(names))
    biases: Sequence[Tensor | None] = [None] * len(blocks)
    if weights.bias_hh is not None:
        biases = weights.bias_hh.chunk(len(blocks))

    def product(block: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        return lambda vector: F.linear(vector, block, bias).to(block.dtype)

    # not `Products(...)`: torch.compile does not follow calls of generic aliases
    U: Products = Named("gate", dict(zip(names, map(product, blocks, biases), strict=True)))
    rows = () if weights.units is None else weights.units.unbind()
    p: Units = Named("per-unit parameter", dict(zip(cell.unit_names, rows, strict=True)))
    hr = weights.hr
    return U, p, None if hr is None else lambda vector: F.linear(vector, hr).to(hr.dtype)


def _reference(
    cell: Cell,
    input: Tensor,
    weights: Weights,
    state: State,
    lengths: Tensor | None,
    *,
    reverse: bool,
    left: bool,
    resets: Tensor | None,
    masks: Tensor | None,
    states: bool,
    gates: bool,
) -> Scanned:
    steps, batch = input.shape[:2]
    # products may be autocast, states are of the weights' type
    U, p, P = bind(cell, weights)
    dtype = weights.ih.dtype
    state = state.map(lambda value: _as(value, dtype))
    valid = valid_steps(steps, batch, lengths, left, input.device)
    spans = [(0, steps)] * batch
    known = lengths is None or readable(lengths)
    if lengths is not None:
        input = input.masked_fill(~valid, 0)  # NaN too
        if known:
            spans = [(steps - length, steps) if left else (0, length) for length in lengths.tolist()]
    parts = F.linear(input, weights.ih, weights.bias_ih).to(dtype).chunk(len(cell.gate_names), dim=-1)
    # unbound once: an index at each step would make the backward quadratic in T
    x = [part.unbind() for part in parts]
    m = [] if masks is None else [mask.unbind() for mask in masks]
    history: dict[str, list[Tensor]] = {name: [value] * steps for name, value in state.items()}
    first = state
    for t in reversed(range(steps)) if reverse else range(steps):
        rows = [row for row, (start, stop) in enumerate(spans) if start <= t < stop]
        if resets is not None:
            state = _begin_anew(state, resets, t, valid, reverse)
        if len(rows) == batch:
            new = _advance(cell, [gate[t] for gate in x], U, state, p, P, [mask[t] for mask in m])
            for name, value in new.items():
                history[name][t] = value if known else value.masked_fill(~valid[t], 0)
            held = dict(state.items())
            state = new if known else State(**{k: torch.where(valid[t], v, held[k]) for k, v in new.items()})
            continue
        # the rows that are not running take no part, so that nothing flows back from them
        index = torch.tensor(rows, dtype=torch.int64, device=input.device)
        for name, value in state.items():
            history[name][t] = torch.zeros_like(value)
        if rows:
            new = _advance(
                cell,
                [gate[t][index] for gate in x],
                U,
                state.map(lambda value: value[index]),  # noqa: B023
                p,
                P,
                [mask[t][index] for mask in m],
            )
            for name, value in new.items():
                history[name][t] = history[name][t].index_copy(0, index, value)
            state = State(**{name: value.index_copy(0, index, getattr(new, name)) for name, value in state.items()})
    every = {name: torch.stack(values) for name, values in history.items()}
    shown = None
    if gates:
        run = (equation_text(cell), input, list(weights), list(first), lengths, resets, masks, reverse, left)
        with torch.no_grad():
            shown = Unrolled(*run).gates
    return Scanned(every["h"], state, State(**every) if states else None, shown)


def _begin_anew(state: State, resets: Tensor, t: int, valid: Tensor, reverse: bool) -> State:
    """Return the state with zeros in the rows that begin anew at step t, in the order in which steps run."""
    mark = t + 1 if reverse else t
    if mark >= len(resets):
        return state
    # both steps must be the row's: nothing is cut off before the first or after the last
    fresh = resets[mark, :, None] & valid[mark] & valid[t]
    return state.map(lambda value: value.masked_fill(fresh, 0))


def _advance(
    cell: Cell, gates: list[Tensor], U: Products, state: State, p: Units, P: Projection | None, masks: list[Tensor]
) -> State:
    """Take one step, and see that the cell returns states of the right size and leaves those before alone."""
    versions = _versions(state)
    x: Gates = Named("gate", dict(zip(cell.gate_names, gates, strict=True)))
    m: Units = Named("mask", dict(zip(cell.mask_names, masks, strict=True)))
    new = cell.advance(x, U, state, p, P, m)
    if versions != _versions(state):
        raise InputError(f"cell {type(cell).__name__}: `step` must not change the state in place; return new values")
    for (name, value), before in zip(new.items(), state, strict=True):
        if value.shape != before.shape:
            raise InputError(
                f"cell {type(cell).__name__}: `step` must return {name} of shape {list(before.shape)}, "
                f"got {list(value.shape)}"
            )
    return new


def _versions(state: State) -> list[int]:
    if torch.compiler.is_compiling():
        return []
    return [value._version for value in state if not value.is_inference()]


def _torch(
    kernel: str, input: Tensor, weights: Weights, state: State, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, State]:
    if lengths is None or not bool((lengths < input.shape[0]).any()):
        output, after = _run_kernel(kernel, input.flip(0) if reverse else input, weights, state)
        return output.flip(0) if reverse else output, after

    steps, batch, _ = input.shape
    padded = (~valid_steps(steps, batch, lengths, False, input.device)).flatten()
    order = _flip(lengths, input.shape[0]) if reverse else None
    flag = kernel in SHUTTING
    input = _Arrange.apply(input, order, padded.nonzero().squeeze(1), flag)  # type: ignore[no-untyped-call]
    if flag:
        # a further input, 1 at padded steps, shuts the gates there: nothing comes out, and nothing can overflow
        half = weights.ih.dtype == torch.float16 or torch.is_autocast_enabled(input.device.type)
        signs = weights.ih.new_tensor(SHUTTING[kernel]) * (SHUT_FLOAT16 if half else SHUT)
        column = signs.repeat_interleave(len(weights.ih) // len(signs))[:, None]
        weights = weights._replace(ih=torch.cat([weights.ih, column], dim=1))
    output, after = _run_kernel(kernel, input, weights, state)
    if not flag:
        output = output.masked_fill(padded.view(*output.shape[:2], 1), 0)
    last = output.gather(0, (lengths - 1).clamp(min=0)[None, :, None].expand(1, -1, output.shape[-1])).squeeze(0)
    h = torch.where((lengths > 0)[:, None], last, state.h.to(last.dtype))
    after = State(**{name: h if name == "h" else value for name, value in after.items()})
    if order is not None:
        output = _Arrange.apply(output, order, None, False)  # type: ignore[no-untyped-call]
    return output, after


def _run_kernel(kernel: str, input: Tensor, weights: Weights, state: State) -> tuple[Tensor, State]:
    assert weights.hh is not None
    flat = [weights.ih, weights.hh]
    if weights.bias_ih is not None:
        # the kernels know two biases or none
        zero = weights.bias_ih.new_zeros(()).expand_as(weights.bias_ih)
        flat += [weights.bias_ih, zero if weights.bias_hh is None else weights.bias_hh]
    if weights.hr is not None:
        flat.append(weights.hr)
    options = (flat, weights.bias_ih is not None, 1, 0.0, torch.is_grad_enabled(), False, False)
    initial = tuple(value.unsqueeze(0) for value in state)
    if kernel == "lstm":
        output, *final = torch._VF.lstm(input, initial, *options)
    else:
        output, *final = getattr(torch._VF, kernel)(input, *initial, *options)
    return output, State(**{name: value.squeeze(0) for (name, _), value in zip(state.items(), final, strict=True)})


def _flip(lengths: Tensor, steps: int) -> Tensor:
    """Return where in [T * B] each step of the rows comes from when every row's valid steps are reversed."""
    step = torch.arange(steps, device=lengths.device)[:, None]
    row = torch.arange(len(lengths), device=lengths.device)
    return (torch.where(step < lengths, lengths - 1 - step, step) * len(lengths) + row).flatten()


class _Arrange(torch.autograd.Function):
    """Steps [T, B, D] in another order, with zeros at padded ones, in one pass.

    `order` [T * B] must be its own inverse; `padded` lists steps of [T * B]; `flag` appends a feature that is 1 there.
    Nothing flows back from padded steps, so the backward pass needs only the order.
    """

    @staticmethod
    def forward(ctx: Any, sequence: Tensor, order: Tensor | None, padded: Tensor | None, flag: bool) -> Tensor:
        steps, batch, size = sequence.shape
        ctx.order, ctx.size = order, size
        rows = sequence.reshape(-1, size)
        result = rows.new_empty(len(rows), size + flag)
        result[:, :size] = rows if order is None else rows.index_select(0, order)
        if padded is not None:
            result[padded, :size] = 0
        if flag:
            result[:, size] = 0
            result[padded, size] = 1
        return result.view(steps, batch, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        grad = grad[..., : ctx.size]
        if ctx.order is not None:
            grad = _Arrange.apply(grad, ctx.order, None, False)  # type: ignore[no-untyped-call]
        return grad, None, None, None
