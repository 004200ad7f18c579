"""`recur::scan`, the compiled recurrence as an operator of torch's, with its fake and its gradient.

The equation goes in as text, so that a graph which holds the operator is complete in itself: torch.compile and
torch.export see one node, and an exported program runs wherever `recur.scan` is imported.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

import recur
from recur.compiler import eager, kernel, machine
from recur.compiler.call import Call, check, check_backward, expected, kept_sizes, rows_of
from recur.compiler.target import host
from recur.compiler.weights import Weights, dense_rows
from recur.errors import InputError

_P = ParamSpec("_P")
_R = TypeVar("_R")

_ARGUMENTS = (
    "str equation, Tensor x, Tensor ih, Tensor? hh, Tensor? bias_ih, Tensor? bias_hh, Tensor? units, Tensor? hr, "
    "Tensor[] state, Tensor? lengths, Tensor? resets, Tensor? masks, bool reverse, bool left"
)
_LIBRARY = torch.library.Library("recur", "FRAGMENT")  # type: ignore[no-untyped-call]
for _schema in (
    f"scan({_ARGUMENTS}, bool keep, bool states, bool gates, str build='') -> Tensor[]",
    f"scan_backward({_ARGUMENTS}, Tensor y, Tensor[] kept, Tensor? d_y, Tensor?[] d_final, Tensor?[] d_states, "
    "bool need_x, bool need_weights) -> Tensor[]",
):
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]


def scan(call: Call, *, states: bool, gates: bool, half: bool = False) -> list[Tensor]:
    """Return the outputs and final states, and on request the states other than h after every step, and the gates.

    With `half` the weights are kept as bfloat16 where no gradient is asked for and nothing else looks on.

    Raises:
        InputError: the tensors do not fit together.
        NotCompilable: machine code cannot be made or loaded here.
    """
    if torch.compiler.is_compiling() or _heard((call.x, *call.weights, *call.state, call.masks)):
        result: list[Tensor] = torch.ops.recur.scan.default(*call.arguments, False, states, gates, _build())
        return result
    # past the dispatcher, which takes as long as a step of a small layer
    if _differentiated(call):
        return _recorded(call, True, False, states, gates, "")
    return _run(call, False, states, gates, half)


def constant(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Have torch.compile call `function` while it compiles, and take the result for good."""
    # torch.compiler.assume_constant_result does just this, after importing the compiler for a second and a half
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant
def _build() -> str:
    # part of the graph, so that those which torch.compile has on disk are not taken for those of another recur or
    # processor, which keeps something else for the backward; the operator itself makes no use of it
    return f"{recur.__version__} {host().vector_bytes}"


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
    call, (keep, states, gates, *_) = Call.of(given)
    if not keep and machine.available() is not None:
        # a program exported elsewhere
        check(call)
        rows_of(call)
        return _unrolled(call, keep, states, gates)
    return _run(call, keep, states, gates)


def _run(call: Call, keep: bool, every: bool, gates: bool, half: bool = False) -> list[Tensor]:
    check(call)
    rows = rows_of(call)
    result = kernel.forward(
        call.equation,
        call.x,
        call.weights,
        call.state,
        rows,
        None if call.masks is None else dense_rows(call.masks),
        training=keep or every,
        gates=gates,
        half=half,
    )
    outputs = [result.y, *(value.contiguous() for value in result.final)]
    if every:
        states = expected(call.equation).states
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
    call, (keep, states, gates, *_) = Call.of(given)
    x, (steps, batch) = call.x, call.x.shape[:2]
    wanted = expected(call.equation)
    hidden = call.weights.ih.shape[0] // wanted.gates
    sizes = {name: value.shape[1] for name, value in zip(wanted.states, call.state, strict=True)}
    others = [size for name, size in sizes.items() if name != "h"]
    outputs = [x.new_empty(steps, batch, sizes["h"]), *(x.new_empty(value.shape) for value in call.state)]
    if states:
        outputs += [x.new_empty(steps, batch, size) for size in others]
    if gates:
        outputs.append(x.new_empty(steps, batch, wanted.gates, hidden))
    if keep:
        widths = kept_sizes(call.equation, host().lanes(x.dtype), hidden, sizes["h"])
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
    check(call)
    check_backward(call, y, kept, d_y, d_final, d_states)
    names = [name for name in expected(call.equation).states if name != "h"]
    gradients = kernel.backward(
        call.equation,
        call.x,
        call.weights,
        call.state,
        rows_of(call),
        dense_rows(y),
        [_aligned(value) for value in kept],
        d_y,
        d_final,
        None if call.masks is None else dense_rows(call.masks),
        d_states={name: value for name, value in zip(names, d_states, strict=False) if value is not None},
        need_x=need_x,
        need_weights=need_weights,
    )
    found = [call.x.new_empty(0) if g is None else g for g in (gradients.x, *gradients.weights)]
    return [*found, *(value.contiguous() for value in gradients.state)]


def _aligned(value: Tensor) -> Tensor:
    # kernels read whole vectors of what they kept; hooks for saved tensors may bring it back anywhere
    value = value.contiguous()
    return value.clone() if value.data_ptr() % 64 else value


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
        build: str,
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
        results = _run(call, True, states, gates) if direct else _below(*call.arguments, True, states, gates, build)
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
        need_x, *needed = ctx.needs_input_grad[11:]
        need_weights = any(needed[:6])
        again = torch.is_grad_enabled() and any(g is not None and g.requires_grad for g in (*tensors, *grads))
        if again or _batched(grads):
            return (None,) * 11 + eager.gradients(*call, given)
        more = (y, kept, *given, need_x, need_weights)
        if _heard((*tensors, masks, y, *kept, *grads)):
            results = torch.ops.recur.scan_backward.default(*call.arguments, *more)
        else:
            results = _run_backward(call, *more)
        d_x = results[0] if need_x else None
        d_weights = (d if w is not None and need_weights else None for w, d in zip(weights, results[1:7], strict=True))
        return (*(None,) * 11, d_x, *d_weights, *results[7:])


def _batched(grads: Iterable[Tensor | None]) -> bool:
    """Whether several gradients come in at once, from torch.func.vmap or `is_grads_batched`."""
    functorch = torch._C._functorch
    return functorch.peek_interpreter_stack() is not None or any(
        g is not None and functorch.is_legacy_batchedtensor(g) for g in grads
    )


# without what `apply` adds for torch.func, which is not under way here
_record: Any = super(torch.autograd.Function, _Scan).apply


def _recorded(call: Call, *options: Any) -> list[Tensor]:
    return list(_record(*options, *call[:1], *call[4:], call.x, *call.weights, *call.state))


def _below(*given: Any) -> list[Tensor]:
    with torch._C._AutoDispatchBelowAutograd():
        result: list[Tensor] = torch.ops.recur.scan.default(*given)
    return result


def _scan_autograd(*given: Any) -> list[Tensor]:
    call, (keep, states, gates, *build) = Call.of(given)
    if transformed((call.x, *call.weights, *call.state, call.masks)):
        return _unrolled(call, keep, states, gates)
    if call.masks is not None and call.masks.requires_grad and torch.is_grad_enabled():
        raise InputError("`masks` get no gradient from `recur::scan`: detach them, or take backend='reference'")
    if _differentiated(call):
        return _recorded(call, False, keep, states, gates, "".join(build))
    return _below(*given)


def transformed(tensors: Iterable[Tensor | None]) -> bool:
    """Whether a transform of torch.func or forward-mode differentiation is under way, which kernels know nothing of."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    dual: Any = torch.autograd.forward_ad.unpack_dual
    return torch.autograd.forward_ad._current_level >= 0 and any(
        value is not None and dual(value).tangent is not None for value in tensors
    )


def _unrolled(call: Call, keep: bool, states: bool, gates: bool) -> list[Tensor]:
    """The operator in torch's own: what transforms differentiate, and batch."""
    if keep:
        raise NotImplementedError("`recur::scan` keeps nothing under torch.func: leave out `keep`")
    run = eager.Unrolled(*call)
    others = [value for name, value in run.states.items() if name != "h"] if states else []
    return [run.outputs, *run.final, *others, *([run.gates] if gates else [])]


def _scan_batched(*given: Any) -> list[Tensor]:
    call, (keep, states, gates, *_) = Call.of(given)
    return _unrolled(call, keep, states, gates)


_LIBRARY.impl("scan", _scan, "CPU")  # type: ignore[no-untyped-call]
_LIBRARY.impl("scan", _scan_autograd, "Autograd")  # type: ignore[no-untyped-call]
_LIBRARY.impl("scan", _scan_batched, "FuncTorchBatchedDecomposition")  # type: ignore[no-untyped-call]
_LIBRARY.impl("scan_backward", _scan_backward, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("recur::scan", _scan_fake, lib=_LIBRARY)
torch.library.register_fake("recur::scan_backward", _scan_backward_fake, lib=_LIBRARY)
