"""The traced equation as a loop in torch: what gradients of gradients are taken through, and gates without a kernel."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recur.compiler.graph import Equation, Node, gate_values
from recur.compiler.interpret import evaluate


def step(
    equation: Equation,
    x: Mapping[str, Tensor],
    weights: Sequence[Tensor | None],
    state: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
) -> dict[Node, Tensor]:
    """Return the value of every node of one step; x by gate [B, H], the weights as for the operator."""
    _, hh, _, bias_hh, units, hr = weights
    names = equation.recurrent
    matrices = {} if hh is None else dict(zip(names, hh.chunk(len(names)), strict=True))
    biases = {} if bias_hh is None else dict(zip(names, bias_hh.chunk(len(names)), strict=True))
    values: dict[Node, Tensor] = {}
    like = next(iter(state.values()))
    for node in equation.nodes:
        match node.op:
            case "x":
                values[node] = x[node.name]
            case "state":
                values[node] = state[node.name]
            case "mask":
                values[node] = masks[node.name]
            case "unit":
                assert units is not None
                values[node] = units[equation.units.index(node.name)]
            case "const":
                values[node] = like.new_tensor(node.value)
            case "share":
                hidden = next(iter(x.values())).shape[-1]
                values[node] = like.new_tensor(1 / (hidden if node.name == "H" or hr is None else len(hr)))
            case "product":
                values[node] = F.linear(values[node.args[0]], matrices[node.name], biases.get(node.name))
            case "project":
                assert hr is not None
                values[node] = F.linear(values[node.args[0]], hr)
            case "sum":
                values[node] = values[node.args[0]].sum(-1, keepdim=True)
            case _:
                values[node] = evaluate(node, [values[arg] for arg in node.args])
    return values


class Unrolled:
    """A sequence run step by step: outputs [T, B, H], final states, all states by name, gates [T, B, G, H]."""

    def __init__(
        self,
        text: str,
        x: Tensor,
        weights: Sequence[Tensor | None],
        state: Sequence[Tensor],
        lengths: Tensor | None,
        resets: Tensor | None,
        masks: Tensor | None,
        reverse: bool,
        left: bool,
    ) -> None:
        equation = Equation.parse(text)
        steps, batch = x.shape[:2]
        valid = valid_steps(steps, batch, lengths, left, x.device)
        x = x.masked_fill(~valid, 0)
        ih = weights[0]
        assert ih is not None
        parts = F.linear(x, ih, weights[2]).chunk(len(equation.gates), dim=-1)
        gates = {name: part.unbind() for name, part in zip(equation.gates, parts, strict=True)}
        starts = _starts(valid, resets, reverse)
        now = dict(zip(equation.states, state, strict=True))
        wanted = gate_values(equation)
        history: dict[str, list[Tensor]] = {name: [x] * steps for name in equation.states}
        shown: list[Tensor] = [x] * steps
        for t in reversed(range(steps)) if reverse else range(steps):
            before = now if starts is None else {name: v.masked_fill(starts[t], 0) for name, v in now.items()}
            mask = {} if masks is None else dict(zip(equation.masks, masks[:, t], strict=True))
            values = step(equation, {name: part[t] for name, part in gates.items()}, weights, before, mask)
            for name, node in equation.new.items():
                now[name] = torch.where(valid[t], values[node], now[name])
                history[name][t] = values[node].masked_fill(~valid[t], 0)
            with torch.no_grad():
                columns = [values[wanted[g]] if g in wanted else torch.zeros_like(parts[0][0]) for g in equation.gates]
                shown[t] = torch.stack(columns, 1).masked_fill(~valid[t].unsqueeze(-1), 0)
        self.states = {name: torch.stack(values) for name, values in history.items()}
        self.outputs, self.final, self.gates = self.states["h"], list(now.values()), torch.stack(shown)


def valid_steps(steps: int, batch: int, lengths: Tensor | None, left: bool, device: torch.device) -> Tensor:
    """Return the mask [T, B, 1] that is True where a row has a valid step."""
    if lengths is None:
        return torch.ones(steps, batch, 1, dtype=torch.bool, device=device)
    at = torch.arange(steps, device=device)[:, None]
    return ((at >= steps - lengths) if left else (at < lengths)).unsqueeze(-1)


def _starts(valid: Tensor, resets: Tensor | None, reverse: bool) -> Tensor | None:
    """Return where the state before a step, in the order in which steps run, is taken as zero: bool [T, B, 1]."""
    if resets is None:
        return None
    marks = resets.unsqueeze(-1) & valid
    if not reverse:
        return marks
    # backwards, a part ends before its mark; and nothing is cut where no valid step comes after
    later = torch.zeros_like(marks)
    later[:-1] = marks[1:] & valid[:-1]
    return later


def gradients(
    text: str,
    x: Tensor,
    weights: Sequence[Tensor | None],
    state: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    masks: Tensor | None,
    reverse: bool,
    left: bool,
    given: tuple[Tensor | None, Sequence[Tensor | None], Sequence[Tensor | None]],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, the weights and the initial states; in grad mode they can be differentiated again."""
    d_y, d_final, d_states = given
    again = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        # aliases, so that the gradient is taken with respect to these uses alone
        inputs = [
            value.view_as(value) if value is not None and value.requires_grad else value
            for value in (x, *weights, *state)
        ]
        run = Unrolled(
            text,
            inputs[0],  # type: ignore[arg-type]
            inputs[1:7],
            inputs[7:],  # type: ignore[arg-type]
            lengths,
            resets,
            masks,
            reverse,
            left,
        )
        others = [values for name, values in run.states.items() if name != "h"]
        pairs = list(zip([run.outputs, *run.final, *others], [d_y, *d_final, *d_states], strict=False))
        pairs = [(value, d) for value, d in pairs if d is not None and value.requires_grad]
        wanted = [value for value in inputs if value is not None and value.requires_grad]
        if not pairs:
            return (None,) * len(inputs)
        found = iter(
            torch.autograd.grad(
                [value for value, _ in pairs], wanted, [d for _, d in pairs], create_graph=again, allow_unused=True
            )
        )
        return tuple(next(found) if v is not None and v.requires_grad else None for v in inputs)
