"""`recur::scan`, the compiled recurrence as an operator of torch's, with its fake and its gradient.

The equation goes in as text, so that a graph which holds the operator is complete in itself: torch.compile and
torch.export see one node, and an exported program runs wherever `recur.scan` is imported.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recur.compiler import eager, kernel
from recur.compiler.graph import UNITS, Equation
from recur.compiler.plan import plan_forward
from recur.compiler.rows import Rows, ragged, uniform
from recur.compiler.target import host
from recur.compiler.weights import Weights, dense_rows
from recur.errors import InputError

DTYPES = (torch.float32, torch.float64)

_ARGUMENTS = (
    "str equation, Tensor x, Tensor ih, Tensor? hh, Tensor? bias_ih, Tensor? bias_hh, Tensor? units, Tensor? hr, "
    "Tensor[] state, Tensor? lengths, Tensor? resets, Tensor? masks, bool reverse, bool left"
)
_LIBRARY = torch.library.Library("recur", "FRAGMENT")  # type: ignore[no-untyped-call]
for _schema in (
    f"scan({_ARGUMENTS}, bool keep, bool states, bool gates) -> Tensor[]",
    f"scan_backward({_ARGUMENTS}, Tensor y, Tensor[] kept, Tensor? d_y, Tensor?[] d_final, Tensor?[] d_states, "
    "bool need_x, bool need_weights) -> Tensor[]",
):
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]


class Call(NamedTuple):
    """What both operators begin with; shapes as for `recur.scan.scan`."""

    equation: str
    x: Tensor
    weights: Weights
    state: Sequence[Tensor]
    lengths: Tensor | None
    resets: Tensor | None
    masks: Tensor | None
    reverse: bool
    left: bool

    @staticmethod
    def of(given: Sequence[Any]) -> "tuple[Call, Sequence[Any]]":
        """Return what the arguments of an operator begin with, and the rest."""
        return Call(given[0], given[1], Weights(*given[2:8]), *given[8:14]), given[14:]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As arguments of an operator."""
        return (self.equation, self.x, *self.weights, *self[3:])


def scan(call: Call, *, states: bool, gates: bool) -> list[Tensor]:
    """Return the outputs and final states, and on request the states other than h after every step, and the gates.

    Raises:
        InputError: the tensors do not fit together.
        NotCompilable: machine code cannot be made or loaded here.
    """
    if torch.compiler.is_compiling() or _heard((call.x, *call.weights, *call.state)):
        result: list[Tensor] = torch.ops.recur.scan.default(*call.arguments, False, states, gates)
        return result
    # past the dispatcher, which takes as long as a step of a small layer
    if _differentiated(call):
        return _recorded(call, True, False, states, gates)
    return _run(call, False, states, gates)


def watched() -> bool:
    """Whether a mode, a transform of torch.func or torch.jit.trace is to see every operator."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
    )


def _heard(tensors: Iterable[Tensor | None]) -> bool:
    """Whether something besides autograd is to see this one: those, a profiler, or a tensor that is not a plain one."""
    if watched() or torch._C._autograd._profiler_enabled():
        return True
    keys = torch._C._dispatch_keys
    for t in tensors:  # noqa: SIM110 - `any` takes longer
        if t is not None and (type(t) not in OWN or keys(t).raw_repr() not in _KEYS):
            return True
    return False


# other classes may have a say in what an operator does
OWN = (Tensor, torch.nn.Parameter)
# dense, on a CPU, not conjugated, batched or the like
_KEYS = set()
for _mode in (True, False):
    with torch.inference_mode(_mode):
        _KEYS.add(torch._C._dispatch_keys(torch.empty(0, device="cpu")).raw_repr())


def _differentiated(call: Call) -> bool:
    return torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (call.x, *call.weights, *call.state)
    )


def _scan(*given: Any) -> list[Tensor]:
    call, options = Call.of(given)
    return _run(call, *options)


def _run(call: Call, keep: bool, every: bool, gates: bool) -> list[Tensor]:
    _check(call)
    rows = _rows(call)
    result = kernel.forward(
        call.equation,
        call.x,
        call.weights,
        call.state,
        rows,
        None if call.masks is None else dense_rows(call.masks),
        training=keep or every,
        gates=gates,
    )
    outputs = [result.y, *(value.contiguous() for value in result.final)]
    if every:
        states = _expected(call.equation).states
        others = [value for name, value in zip(states, result.final, strict=True) if name != "h"]
        for packed, final in zip(result.kept, others, strict=False):
            outputs.append(rows.unpack(packed[: rows.total, : final.shape[1]]).clone())
    if result.gates is not None:
        outputs.append(result.gates)
    outputs = [_own(value) for value in outputs]
    return [*outputs, *result.kept] if keep else outputs


def _own(value: Tensor) -> Tensor:
    # a part of something else could not be changed in place
    if not value._is_view():
        return value
    own = torch.empty(0, dtype=value.dtype)
    return own.set_(value.untyped_storage(), value.storage_offset(), value.shape, value.stride())


def _scan_fake(*given: Any) -> list[Tensor]:
    call, (keep, states, gates) = Call.of(given)
    x, (steps, batch) = call.x, call.x.shape[:2]
    expected = _expected(call.equation)
    hidden = call.weights.ih.shape[0] // expected.gates
    sizes = {name: value.shape[1] for name, value in zip(expected.states, call.state, strict=True)}
    others = [size for name, size in sizes.items() if name != "h"]
    outputs = [x.new_empty(steps, batch, sizes["h"]), *(x.new_empty(value.shape) for value in call.state)]
    if states:
        outputs += [x.new_empty(steps, batch, size) for size in others]
    if gates:
        outputs.append(x.new_empty(steps, batch, expected.gates, hidden))
    if keep:
        widths = _kept_sizes(call.equation, host().lanes(x.dtype), hidden, sizes["h"])
        outputs += [x.new_empty(steps * batch, width) for width in widths]
    return outputs


def _scan_backward(*given: Any) -> list[Tensor]:
    call, options = Call.of(given)
    return _run_backward(call, *options)


def _run_backward(
    call: Call,
    y: Tensor,
    kept: Sequence[Tensor],
    d_y: Tensor | None,
    d_final: Sequence[Tensor | None],
    d_states: Sequence[Tensor | None],
    need_x: bool,
    need_weights: bool,
) -> list[Tensor]:
    _check(call)
    _check_backward(call, y, kept, d_y, d_final, d_states)
    names = [name for name in _expected(call.equation).states if name != "h"]
    gradients = kernel.backward(
        call.equation,
        call.x,
        call.weights,
        call.state,
        _rows(call),
        dense_rows(y),
        [value.contiguous() for value in kept],
        d_y,
        d_final,
        None if call.masks is None else dense_rows(call.masks),
        d_states={name: value for name, value in zip(names, d_states, strict=False) if value is not None},
        need_x=need_x,
        need_weights=need_weights,
    )
    found = [call.x.new_empty(0) if g is None else g for g in (gradients.x, *gradients.weights)]
    return [*found, *(value.contiguous() for value in gradients.state)]


def _scan_backward_fake(*given: Any) -> list[Tensor]:
    call, (*_, need_x, need_weights) = Call.of(given)

    def like(value: Tensor | None, wanted: bool) -> Tensor:
        return call.x.new_empty(value.shape if wanted and value is not None else (0,))

    weights = [like(w, need_weights) for w in call.weights]
    return [like(call.x, need_x), *weights, *(like(value, True) for value in call.state)]


class _Scan(torch.autograd.Function):
    """The operator's gradient: compiled BPTT, or where that is to be differentiated again, the equation in torch."""

    @staticmethod
    def forward(
        ctx: Any,
        direct: bool,
        keep: bool,
        states: bool,
        gates: bool,
        equation: str,
        lengths: Tensor | None,
        resets: Tensor | None,
        masks: Tensor | None,
        reverse: bool,
        left: bool,
        x: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        weights, state = Weights(*tensors[:6]), list(tensors[6:])  # type: ignore[arg-type]
        call = Call(equation, x, weights, state, lengths, resets, masks, reverse, left)  # type: ignore[arg-type]
        results = _run(call, True, states, gates) if direct else _below(*call.arguments, True, states, gates)
        count = len(state)
        shown = 1 + count + (count - 1 if states else 0) + gates
        outputs, kept = tuple(results[:shown]), results[shown:]
        ctx.given, ctx.count, ctx.states = (equation, reverse, left), count, states
        ctx.save_for_backward(x, *weights, *state, lengths, resets, masks, outputs[0], *kept)
        ctx.mark_non_differentiable(*(outputs[-1:] if gates else ()), *(kept if keep else ()))
        ctx.set_materialize_grads(False)
        return (*outputs, *kept) if keep else outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        equation, reverse, left = ctx.given
        count = ctx.count
        x, *rest = ctx.saved_tensors
        weights, state = Weights(*rest[:6]), rest[6 : 6 + count]
        tensors = (x, *weights, *state)
        lengths, resets, masks, y, *kept = rest[6 + count :]
        call = Call(equation, x, weights, state, lengths, resets, masks, reverse, left)
        given = (grads[0], list(grads[1 : 1 + count]), list(grads[1 + count : 2 * count]) if ctx.states else [])
        _, _, _, _, _, _, _, _, _, _, need_x, *needed = ctx.needs_input_grad
        need_weights = any(needed[:6])
        again = torch.is_grad_enabled() and any(g is not None and g.requires_grad for g in (*tensors, *grads))
        if again or _batched(grads):
            return (None,) * 10 + eager.gradients(*call, given)
        more = (y, kept, *given, need_x, need_weights)
        if _heard((*tensors, *kept, *grads)):
            results = torch.ops.recur.scan_backward.default(*call.arguments, *more)
        else:
            results = _run_backward(call, *more)
        d_x = results[0] if need_x else None
        d_weights = (d if w is not None and need_weights else None for w, d in zip(weights, results[1:7], strict=True))
        return (*(None,) * 10, d_x, *d_weights, *results[7:])


def _batched(grads: Iterable[Tensor | None]) -> bool:
    """Whether several gradients come in at once, from torch.func.vmap or `is_grads_batched`."""
    functorch = torch._C._functorch
    return functorch.peek_interpreter_stack() is not None or any(
        g is not None and functorch.is_legacy_batchedtensor(g) for g in grads
    )


# without what `apply` adds for torch.func, which is not under way here
_record: Any = super(torch.autograd.Function, _Scan).apply


def _recorded(call: Call, *options: bool) -> list[Tensor]:
    return list(_record(*options, *call[:1], *call[4:], call.x, *call.weights, *call.state))


def _below(*given: Any) -> list[Tensor]:
    with torch._C._AutoDispatchBelowAutograd():
        result: list[Tensor] = torch.ops.recur.scan.default(*given)
    return result


def _scan_autograd(*given: Any) -> list[Tensor]:
    call, options = Call.of(given)
    if call.masks is not None and call.masks.requires_grad and torch.is_grad_enabled():
        raise InputError("`masks` get no gradient from `recur::scan`: detach them, or take backend='reference'")
    return _recorded(call, False, *options) if _differentiated(call) else _below(*given)


class _Expected(NamedTuple):
    """How many gates, recurrent products, per-unit parameters and masks an equation has, and its states."""

    gates: int
    recurrent: int
    units: int
    masks: int
    projected: bool
    states: tuple[str, ...]


@lru_cache(maxsize=256)
def _expected(equation: str) -> _Expected:
    e = Equation.parse(equation)
    return _Expected(len(e.gates), len(e.recurrent), len(e.units), len(e.masks), e.projected, e.states)


def _check(call: Call) -> None:
    """Refuse what kernels would read past the end of.

    Raises:
        InputError: names the tensor, what it must be, and what it is.
    """
    x, expected = call.x, _expected(call.equation)
    if x.dim() != 3 or not x.shape[0] or x.dtype not in DTYPES:
        raise InputError(f"`x` must be float32 or float64 [T, B, D] with T above 0, got {_said(x)}")
    if len(call.state) != len(expected.states):
        raise InputError(f"`state` must be {', '.join(expected.states)}, got {len(call.state)} tensors")
    steps, batch, width = x.shape
    hidden, outputs = _sizes(call, expected)
    ih, hh, bias_ih, bias_hh, units, hr = call.weights
    stacked, recurrent = expected.gates * hidden, expected.recurrent * hidden
    _fit("ih", ih, x, (stacked, width), True)
    _fit("hh", hh, x, (recurrent, outputs), recurrent > 0)
    _fit("bias_ih", bias_ih, x, (stacked,), bias_ih is not None)
    _fit("bias_hh", bias_hh, x, (recurrent,), recurrent > 0 and bias_hh is not None)
    _fit("units", units, x, (expected.units, hidden), expected.units > 0)
    _fit("hr", hr, x, (outputs, hidden), expected.projected)
    for name, value in zip(expected.states, call.state, strict=True):
        _fit(f"state.{name}", value, x, (batch, outputs if name == "h" else hidden), True)
    _fit("masks", call.masks, x, (expected.masks, steps, batch, hidden), expected.masks > 0)
    for name, given, dtype, shape in (
        ("lengths", call.lengths, torch.int64, (batch,)),
        ("resets", call.resets, torch.bool, (steps, batch)),
    ):
        if given is not None and (given.shape != shape or given.dtype is not dtype or not given.is_cpu):
            raise InputError(f"`{name}` must be {dtype} {list(shape)}, got {_said(given)}")


def _check_backward(
    call: Call,
    y: Tensor,
    kept: Sequence[Tensor],
    d_y: Tensor | None,
    d_final: Sequence[Tensor | None],
    d_states: Sequence[Tensor | None],
) -> None:
    x, expected = call.x, _expected(call.equation)
    steps, batch, _ = x.shape
    hidden, outputs = _sizes(call, expected)
    widths = _kept_widths(call.equation, host().lanes(x.dtype), hidden, outputs)
    states = [value for name, value in zip(expected.states, call.state, strict=True) if name != "h"]
    if len(kept) != len(widths) or len(d_final) != len(call.state) or len(d_states) not in (0, len(states)):
        raise InputError(
            f"`kept`, `d_final` and `d_states` must be {len(widths)}, {len(call.state)} and {len(states)} or 0, "
            f"got {len(kept)}, {len(d_final)} and {len(d_states)}"
        )
    _fit("y", y, x, (steps, batch, outputs), True)
    _fit("d_y", d_y, x, (steps, batch, outputs), d_y is not None)
    for value, size in zip(kept, widths, strict=True):
        _fit("kept", value, x, (steps * batch, size), True)
    for given, final in zip(d_final, call.state, strict=True):
        _fit("d_final", given, x, final.shape, given is not None)
    for given, final in zip(d_states, states, strict=False):
        _fit("d_states", given, x, (steps, *final.shape), given is not None)


def _sizes(call: Call, expected: _Expected) -> tuple[int, int]:
    """Return H, and P or H."""
    ih, hr = call.weights.ih, call.weights.hr
    hidden = ih.shape[0] // expected.gates if ih.dim() else 0
    outputs = hr.shape[0] if hr is not None and hr.dim() else hidden
    if not hidden or not outputs:
        raise InputError(f"`ih` must be [G*H, D] with G = {expected.gates} and H above 0, got {_said(ih)}")
    return hidden, outputs


def _fit(name: str, value: Tensor | None, like: Tensor, shape: tuple[int, ...], wanted: bool) -> None:
    if value is None:
        if not wanted:
            return
    elif wanted and value.shape == shape and value.dtype is like.dtype and value.is_cpu:
        return
    raise InputError(f"`{name}` must be {f'{like.dtype} {list(shape)}' if wanted else None}, got {_said(value)}")


def _said(value: Tensor | None) -> str:
    return "None" if value is None else f"{value.dtype} {list(value.shape)} on {value.device}"


def _kept_sizes(equation: str, lanes: int, hidden: int, outputs: int) -> tuple[int, ...]:
    """Return how many numbers each kept tensor has per step and row: states other than h, slots, row numbers."""

    def padded(size: int) -> int:
        return -(-size // lanes) * lanes

    plan = plan_forward(equation, True)
    states = [padded(hidden) for name in plan.equation.states if name != "h"]
    slots = [padded(hidden if node.dim == UNITS else outputs) for node in plan.slots]
    return (*states, sum(slots), len(plan.rows))


_kept_widths = lru_cache(maxsize=256)(_kept_sizes)


def _rows(call: Call) -> Rows:
    """Return which rows run which steps.

    Raises:
        InputError: a length is not in 0..T.
    """
    steps, batch = call.x.shape[:2]
    if call.lengths is None and call.resets is None:
        return uniform(steps, batch, call.reverse)
    lengths = (steps,) * batch if call.lengths is None else tuple(call.lengths.tolist())
    if lengths and (min(lengths) < 0 or max(lengths) > steps):
        row, length = next((row, n) for row, n in enumerate(lengths) if not 0 <= n <= steps)
        raise InputError(f"`lengths` must be in 0..T = 0..{steps}, got {length} in row {row}")
    if call.resets is not None:
        return ragged(steps, lengths, reverse=call.reverse, left=call.left, resets=call.resets)
    return _ragged(steps, lengths, call.reverse, call.left)


@lru_cache(maxsize=32)
def _ragged(steps: int, lengths: tuple[int, ...], reverse: bool, left: bool) -> Rows:
    # once for the directions, the layers and the backward of a batch
    if all(length == steps for length in lengths):
        return uniform(steps, len(lengths), reverse)
    return ragged(steps, lengths, reverse=reverse, left=left)


_LIBRARY.impl("scan", _scan, "CPU")  # type: ignore[no-untyped-call]
_LIBRARY.impl("scan", _scan_autograd, "Autograd")  # type: ignore[no-untyped-call]
_LIBRARY.impl("scan_backward", _scan_backward, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("recur::scan", _scan_fake, lib=_LIBRARY)
torch.library.register_fake("recur::scan_backward", _scan_backward_fake, lib=_LIBRARY)
