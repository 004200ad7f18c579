"""`recur::scan`, the compiled recurrence as an operator of torch's, with its fake and its gradient.

The equation goes in as text, so that a graph which holds the operator is complete in itself: torch.compile and
torch.export see one node, and an exported program runs wherever recur can be imported.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from recur.compiler import eager, kernel
from recur.compiler.graph import UNITS, Equation
from recur.compiler.weights import Weights
from recur.compiler.plan import plan_forward
from recur.compiler.rows import Rows, ragged, uniform
from recur.compiler.target import host

DTYPES = (torch.float32, torch.float64)

_LIBRARY = torch.library.Library("recur", "FRAGMENT")
_LIBRARY.define(
    "scan(str equation, Tensor x, Tensor?[] weights, Tensor[] state, Tensor? lengths, Tensor? resets, Tensor? masks, "
    "bool reverse, bool left, bool keep, bool states, bool gates) -> Tensor[]"
)
_LIBRARY.define(
    "scan_backward(str equation, Tensor x, Tensor?[] weights, Tensor[] state, Tensor? lengths, Tensor? resets, "
    "Tensor? masks, bool reverse, bool left, Tensor y, Tensor[] kept, Tensor? d_y, Tensor?[] d_final, "
    "Tensor?[] d_states, bool need_x, bool need_weights) -> Tensor[]"
)


def rows_of(steps: int, batch: int, lengths: Tensor | None, resets: Tensor | None, reverse: bool, left: bool) -> Rows:
    """Return which rows run which steps."""
    if resets is not None:
        full = [steps] * batch if lengths is None else lengths
        return ragged(steps, full, reverse=reverse, left=left, resets=resets)
    if lengths is None:
        return uniform(steps, batch, reverse)
    return _ragged(steps, tuple(lengths.tolist()), reverse, left)


@lru_cache(maxsize=32)
def _ragged(steps: int, lengths: tuple[int, ...], reverse: bool, left: bool) -> Rows:
    # once for the directions, the layers and the backward of a batch
    if all(length == steps for length in lengths):
        return uniform(steps, len(lengths), reverse)
    return ragged(steps, lengths, reverse=reverse, left=left)


def _scan(
    equation: str,
    x: Tensor,
    weights: Sequence[Tensor | None],
    state: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    masks: Tensor | None,
    reverse: bool,
    left: bool,
    keep: bool,
    states: bool,
    gates: bool,
) -> list[Tensor]:
    rows = rows_of(x.shape[0], x.shape[1], lengths, resets, reverse, left)
    result = kernel.forward(
        equation, x, Weights(*weights), state, rows, masks, training=keep or states, gates=gates  # type: ignore[arg-type]
    )
    outputs = [result.y, *result.final]
    if states:
        names = [name for name in Equation.parse(equation).states if name != "h"]
        for value, final in zip(result.kept, result.final[-len(names) :] if names else (), strict=False):
            outputs.append(rows.unpack(value[: rows.total, : final.shape[1]]).clone())
    if result.gates is not None:
        outputs.append(result.gates)
    return [*outputs, *result.kept] if keep else outputs


def _scan_fake(
    equation: str,
    x: Tensor,
    weights: Sequence[Tensor | None],
    state: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    masks: Tensor | None,
    reverse: bool,
    left: bool,
    keep: bool,
    states: bool,
    gates: bool,
) -> list[Tensor]:
    parsed = Equation.parse(equation)
    steps, batch = x.shape[0], x.shape[1]
    names = [name for name in parsed.states if name != "h"]
    by_name = dict(zip(parsed.states, state, strict=True))
    outputs = [x.new_empty(steps, batch, by_name["h"].shape[1]), *(torch.empty_like(value) for value in state)]
    ih = weights[0]
    assert ih is not None
    hidden = ih.shape[0] // len(parsed.gates)
    if states:
        outputs += [x.new_empty(steps, batch, by_name[name].shape[1]) for name in names]
    if gates:
        outputs.append(x.new_empty(steps, batch, len(parsed.gates), hidden))
    if keep:
        lanes = host().lanes(x.dtype)
        plan = plan_forward(equation, True)

        def padded(size: int) -> int:
            return -(-size // lanes) * lanes

        outputs += [x.new_empty(steps * batch, padded(by_name[name].shape[1])) for name in names]
        width = sum(padded(hidden if node.dim == UNITS else by_name["h"].shape[1]) for node in plan.slots)
        outputs += [x.new_empty(steps * batch, width), x.new_empty(steps * batch, len(plan.rows))]
    return outputs


def _scan_backward(
    equation: str,
    x: Tensor,
    weights: Sequence[Tensor | None],
    state: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    masks: Tensor | None,
    reverse: bool,
    left: bool,
    y: Tensor,
    kept: Sequence[Tensor],
    d_y: Tensor | None,
    d_final: Sequence[Tensor | None],
    d_states: Sequence[Tensor | None],
    need_x: bool,
    need_weights: bool,
) -> list[Tensor]:
    rows = rows_of(x.shape[0], x.shape[1], lengths, resets, reverse, left)
    names = [name for name in Equation.parse(equation).states if name != "h"]
    given = {name: value for name, value in zip(names, d_states, strict=False) if value is not None}
    gradients = kernel.backward(
        equation,
        x,
        Weights(*weights),  # type: ignore[arg-type]
        state,
        rows,
        y,
        kept,
        d_y,
        d_final,
        masks,
        d_states=given,
        need_x=need_x,
        need_weights=need_weights,
    )
    nothing = x.new_empty(0)
    return [nothing if g is None else g for g in (gradients.x, *gradients.weights)] + list(gradients.state)


def _scan_backward_fake(
    equation: str,
    x: Tensor,
    weights: Sequence[Tensor | None],
    state: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    masks: Tensor | None,
    reverse: bool,
    left: bool,
    y: Tensor,
    kept: Sequence[Tensor],
    d_y: Tensor | None,
    d_final: Sequence[Tensor | None],
    d_states: Sequence[Tensor | None],
    need_x: bool,
    need_weights: bool,
) -> list[Tensor]:
    def like(value: Tensor | None, wanted: bool) -> Tensor:
        return x.new_empty(value.shape if wanted and value is not None else (0,))

    return [like(x, need_x), *(like(w, need_weights) for w in weights), *(like(value, True) for value in state)]


class _Scan(torch.autograd.Function):
    """The operator's gradient: the compiled BPTT, or where that is itself to be differentiated, the equation in torch."""

    @staticmethod
    def forward(
        ctx: Any,
        equation: str,
        lengths: Tensor | None,
        resets: Tensor | None,
        masks: Tensor | None,
        reverse: bool,
        left: bool,
        states: bool,
        gates: bool,
        x: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        weights, state = tensors[:6], tensors[6:]
        with torch._C._AutoDispatchBelowAutograd():
            results = torch.ops.recur.scan.default(
                equation, x, list(weights), list(state), lengths, resets, masks, reverse, left, True, states, gates
            )
        shown = 1 + len(state) + (len(state) - 1 if states else 0) + gates
        outputs, kept = tuple(results[:shown]), results[shown:]
        ctx.equation, ctx.options, ctx.shown, ctx.with_states = equation, (reverse, left), len(state), states
        ctx.kept = len(kept)
        ctx.save_for_backward(x, *weights, *state, lengths, resets, masks, outputs[0], *kept)
        if gates:
            ctx.mark_non_differentiable(outputs[-1])
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        count = ctx.shown
        weights, state = rest[:6], rest[6 : 6 + count]
        lengths, resets, masks, y, *kept = rest[6 + count :]
        reverse, left = ctx.options
        d_y, d_final = grads[0], list(grads[1 : 1 + count])
        d_states = list(grads[1 + count : 2 * count]) if ctx.with_states else []
        need_x, need_weights = ctx.needs_input_grad[8], any(ctx.needs_input_grad[9:15])
        if torch.is_grad_enabled() and any(
            g is not None and g.requires_grad for g in (x, *weights, *state, *grads)
        ):
            return (None,) * 8 + eager.gradients(
                ctx.equation, x, weights, state, lengths, resets, masks, reverse, left, (d_y, d_final, d_states)
            )
        results = torch.ops.recur.scan_backward.default(
            ctx.equation,
            x,
            list(weights),
            list(state),
            lengths,
            resets,
            masks,
            reverse,
            left,
            y,
            kept,
            d_y,
            d_final,
            d_states,
            need_x,
            need_weights,
        )
        d_x = results[0] if need_x else None
        d_weights = [
            d if w is not None and need_weights else None for w, d in zip(weights, results[1:7], strict=True)
        ]
        return (None,) * 8 + (d_x, *d_weights, *results[7:])


def _scan_autograd(
    equation: str,
    x: Tensor,
    weights: Sequence[Tensor | None],
    state: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    masks: Tensor | None,
    reverse: bool,
    left: bool,
    keep: bool,
    states: bool,
    gates: bool,
) -> list[Tensor]:
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *weights, *state)):
        found = _Scan.apply(  # type: ignore[no-untyped-call]
            equation, lengths, resets, masks, reverse, left, states, gates, x, *weights, *state
        )
        return list(found)
    with torch._C._AutoDispatchBelowAutograd():
        result: list[Tensor] = torch.ops.recur.scan.default(
            equation, x, weights, state, lengths, resets, masks, reverse, left, False, states, gates
        )
    return result


_LIBRARY.impl("scan", _scan, "CPU")
_LIBRARY.impl("scan", _scan_autograd, "Autograd")
_LIBRARY.impl("scan_backward", _scan_backward, "CPU")
torch.library.register_fake("recur::scan", _scan_fake, lib=_LIBRARY)
torch.library.register_fake("recur::scan_backward", _scan_backward_fake, lib=_LIBRARY)
