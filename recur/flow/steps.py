"""Modules that take one step, `(x_t, state) -> state`, run over a sequence."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from recur.cells.cell import Cell, State
from recur.cells.elman import Elman
from recur.cells.gru import GRU
from recur.cells.lstm import LSTM
from recur.errors import InputError
from recur.flow.capture import NO_STATE, Captured, Loss, check_finite, check_loss, project
from recur.flow.runs import Run, States
from recur.scan import Weights

Given = Tensor | tuple[Tensor, ...] | State


class StepRun(Run):
    """A step function that ran over a sequence.

    Args:
        module: the step function.
        input: [T, B, D].
        state: the initial state.
    """

    def __init__(self, module: nn.Module, input: Tensor, state: Given) -> None:
        self.module, self.input, self.form = module, input, state
        names = _names(state)
        initial = dict(zip(names, (value.detach() for value in _values(state)), strict=True))
        self._parameters = {name: value.detach() for name, value in module.named_parameters()}
        lengths = torch.full((input.shape[1],), len(input), device=input.device)
        super().__init__("step", type(module).__name__, initial, {}, lengths)
        history: dict[str, list[Tensor]] = {name: [] for name in names}
        now: States = initial
        with torch.no_grad():
            for t in range(len(input)):
                now = self.advance(t, slice(None), now)
                for name, value in now.items():
                    history[name].append(value)
        self.after = {name: torch.stack(values) for name, values in history.items()}
        self._met = self._find_weights()
        # what takes part in the gradient
        self._parameters |= {name: self._parameters[name].clone().requires_grad_() for name in self._met}

    def advance(self, t: int, rows: slice | Tensor, states: States) -> dict[str, Tensor]:
        """Take step t by calling the module."""
        values = list(states.values())
        given: Given = values[0] if isinstance(self.form, Tensor) else tuple(values)
        if isinstance(self.form, State):
            given = State(**states)
        new: Any = functional_call(self.module, self._parameters, (self.input[t, rows], given))
        if not isinstance(new, Tensor | tuple | list | State) or len(_values(new)) != len(values):
            raise InputError(
                f"`module` must return the state after a step, {_said(self.form)}, as it was given, got {_said(new)}"
            )
        for name, value, before in zip(states, _values(new), values, strict=True):
            if value.shape != before.shape:
                raise InputError(
                    f"`module` must return {name} of shape {list(before.shape)}, as it was given, "
                    f"got {list(value.shape)}"
                )
        return dict(zip(states, _values(new), strict=True))

    def _find_weights(self) -> dict[str, list[Tensor]]:
        """Return the parameters that meet the state in a matrix product, and what of them does."""
        mode = _Meetings(self._parameters)
        states = {name: value.detach().requires_grad_() for name, value in self.initial.items()}
        with torch.enable_grad(), mode:
            new = self.advance(0, slice(None), states)
        if not any(value.requires_grad for value in new.values()):
            raise InputError(
                f"`module` must be recurrent: the state that {type(self.module).__name__} returns does not depend on "
                "the one it is given"
            )
        return mode.met

    def recurrent_parameters(self) -> list[Tensor]:
        """Return the parameters that meet the state in a product."""
        return [self._parameters[name] for name in self._met]

    def matrices(self) -> dict[str, Tensor]:
        """Return those that are square or several squares, one above the other, by the parameter's name."""
        found = {}
        for name, views in self._met.items():
            for view in views:
                matrix = view if view.shape[0] >= view.shape[1] else view.mT
                count, rest = divmod(matrix.shape[0], matrix.shape[1])
                for i, block in enumerate(matrix.chunk(count) if not rest else ()):
                    found[name if count == 1 else f"{name}[{i}]"] = block.double()
        return found


class _Meetings(TorchFunctionMode):
    """Take note of the parameters, without gradient, that are multiplied with something that has one: a state."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._of = {value.untyped_storage().data_ptr(): name for name, value in parameters.items()}
        self.met: dict[str, list[Tensor]] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        # torch's cells: input, state, W_ih, W_hh
        found = [args[3]] if name.endswith("_cell") else [a for a in args if isinstance(a, Tensor)]
        if isinstance(result, Tensor | tuple) and (name.endswith("_cell") or any(a.requires_grad for a in found)):
            for value in found:
                owner = self._of.get(value.untyped_storage().data_ptr())
                product = name in ("linear", "matmul", "mm", "addmm", "__matmul__", "einsum") or name.endswith("_cell")
                if owner is not None and product and value.dim() == 2 and not value.requires_grad:
                    self.met.setdefault(owner, []).append(value)
        return result


def cell_of(module: nn.Module) -> tuple[Cell, Weights] | None:
    """Return the equation and weights of RNNCell, LSTMCell and GRUCell, torch's or recur's; None of others."""
    if not isinstance(module, nn.RNNCellBase):
        return None
    cells: dict[type[nn.Module], Any] = {nn.LSTMCell: LSTM, nn.GRUCell: GRU}
    if isinstance(module, nn.RNNCell):
        return Elman(module.nonlinearity), _weights(module)
    made = next((made for kind, made in cells.items() if isinstance(module, kind)), None)
    return None if made is None else (made(), _weights(module))


def _weights(module: Any) -> Weights:
    return Weights(module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh)


def zeros_for(module: nn.Module, input: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Return a state of zeros, [B, H] for each name, of a module that tells its `hidden_size`."""
    size = getattr(module, "hidden_size", None)
    if not isinstance(size, int):
        cell = next((name for name, part in module.named_modules() if name and isinstance(part, nn.RNNCellBase)), None)
        if cell is not None:
            raise InputError(
                f"`module` must run a recurrent layer, and {type(module).__name__} calls single steps in a loop of its "
                f"own: hand over the step function, module.{cell}"
            )
        raise InputError(
            f"`module` must run a recurrent layer, or be a step function (x_t, state) -> state with `state=` given; "
            f"{type(module).__name__} has no recurrent layer, and no state to begin with was given"
        )
    return {name: input.new_zeros(input.shape[1], size) for name in names}


def check_input(inputs: Any) -> Tensor:
    """Return the input of a step function, [T, B, D].

    Raises:
        InputError: it is another.
    """
    if not isinstance(inputs, Tensor) or inputs.dim() != 3 or not inputs.is_floating_point():
        found = f"{inputs.dtype} {list(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InputError(f"`inputs` of a step function must be numbers [T, B, D], got {found}")
    return inputs.detach()


def run_steps(module: nn.Module, input: Tensor, state: Given, loss: Loss | None) -> tuple[Captured, float]:
    """Run a step function over [T, B, D], and differentiate the loss of its h [T, B, H].

    Raises:
        InputError: it returns another state than it is given, one that is not finite, or does not depend on that.
    """
    run = StepRun(module, input, state)
    check_finite(run)
    h = run.after["h"].detach().requires_grad_()
    value = project(h[-1]) if loss is None else loss(h)
    number = check_loss(value)
    (gradient,) = torch.autograd.grad(value, h, allow_unused=True)
    if gradient is None:
        raise InputError(NO_STATE)
    return Captured(run, {"h": gradient}, {}), number


def as_mapping(state: Any, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the given state of a cell by name.

    Raises:
        InputError: it holds another number of tensors.
    """
    values = _values(state)
    if len(values) != len(names):
        raise InputError(f"`state` must hold {', '.join(names)}, got {len(values)} tensors")
    return dict(zip(names, values, strict=True))


def check_state(state: Any, batch: int) -> Given:
    """Return `state`, the initial one of a step function.

    Raises:
        InputError: not a tensor, a tuple of them or a State, each [B, n], or a State without h.
    """
    if isinstance(state, list):
        state = tuple(state)
    if not isinstance(state, Tensor | tuple | State) or not all(isinstance(v, Tensor) for v in _values(state)):
        raise InputError(f"`state` must be a tensor, a tuple of tensors or a recur.State, got {_said(state)}")
    if isinstance(state, State) and "h" not in dict(state.items()):
        raise InputError(f"`state` must name the output `h`, got {', '.join(dict(state.items()))}")
    for name, value in zip(_names(state), _values(state), strict=True):
        if value.dim() != 2 or len(value) != batch:
            raise InputError(f"`state` must be [B, n] with B = {batch}, got {list(value.shape)} for {name}")
    return state


def _values(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else list(state)


def _names(state: Given) -> list[str]:
    if isinstance(state, State):
        return list(dict(state.items()))
    count = len(_values(state))
    return ["h", "c"][:count] if count < 3 else ["h", *(f"s{i}" for i in range(1, count))]


def _said(state: Any) -> str:
    if isinstance(state, State):
        return f"State({', '.join(dict(state.items()))})"
    return f"a tuple of {len(state)}" if isinstance(state, tuple | list) else f"a {type(state).__name__}"
