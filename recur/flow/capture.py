"""Run a module as it is and keep what each of its recurrences did, changing nothing in it."""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from recur.cells.cell import Cell, State
from recur.compiler.trace import NotTraceable, trace
from recur.errors import InputError
from recur.flow.runs import CellRun, EquationRun, Given, Run
from recur.layers import GRU, LSTM, RNN, Recurrent
from recur.layers.replace import STAND_INS
from recur.layers.stack import OBSERVER
from recur.scan import Scanned, Weights, compiled, scan

LAYERS = (Recurrent, RNN, LSTM, GRU)
# bytes of gates that are kept rather than computed again
GATES = 256 << 20
PRECISIONS = {torch.float32: "float32", torch.float64: "float64"}

Loss = Callable[[Any], Tensor]


@dataclass
class Captured:
    """A run, and the gradient that reached its states past its own steps: `direct` [T, B, n] and `last` [B, n]."""

    run: Run
    direct: dict[str, Tensor]
    last: dict[str, Tensor]


def find_layers(module: nn.Module) -> dict[nn.Module, str]:
    """Return the recurrent layers in a module and their names, torch.nn's too."""
    kinds = (*LAYERS, nn.RNN, nn.LSTM, nn.GRU)
    return {part: name for name, part in module.named_modules() if isinstance(part, kinds)}


def capture(module: nn.Module, arguments: Sequence[Any], options: Mapping[str, Any], loss: Loss | None) -> "Capture":
    """Run a module with recurrent layers, differentiate the loss, and return what was kept.

    Raises:
        InputError: nothing recurrent ran, a state is not finite, or the loss is none.
    """
    observer = Capture(find_layers(module))
    with unchanged(module), observer.watching(), torch.enable_grad():
        output = module(*arguments, **options)
        if not observer.seen:
            raise InputError("`module` must run a recurrent layer on `inputs`, and none of its layers was called")
        observer.differentiate(output, loss, module)
    return observer


class Capture:
    """What is called in place of `scan`, and keeps what it sees; `captured` holds that in the order of the calls."""

    def __init__(self, layers: Mapping[nn.Module, str]) -> None:
        self.seen: list[tuple[Run, _Order, list[_Target]]] = []
        self.captured: list[Captured] = []
        self.loss = 0.0
        self._layers, self._current, self._calls = layers, ("layer", 1), 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Observe the layers while this lasts."""
        handles: list[RemovableHandle] = []
        token = OBSERVER.set(self)
        try:
            for layer, name in self._layers.items():
                handles.append(layer.register_forward_pre_hook(self._enter(name, layer)))
            # compiled code would run past the observer; and to ask costs the import of the compiler
            compiled = "torch._dynamo" in sys.modules
            with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
                yield
        finally:
            OBSERVER.reset(token)
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, layer: nn.Module) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, arguments: Any) -> None:
            self._current, self._calls = (name, 2 if layer.bidirectional else 1), 0

        return hook

    def _name(self) -> str:
        path, directions = self._current
        if path == "step":
            return path
        layer, direction = divmod(self._calls, directions)
        self._calls += 1
        name = f"{path}.l{layer}{'_reverse' * direction}".lstrip(".")
        again = sum(run.name.split("#")[0] == name for run, _, _ in self.seen)
        return f"{name}#{again + 1}" if again else name

    def __call__(
        self,
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
        backend: str = "auto",
        states: bool = False,
        gates: bool = False,
        **others: Any,
    ) -> Scanned:
        """Run a cell over a sequence as `scan` does, and keep what it did."""
        name = self._name()
        if weights.ih.dtype not in PRECISIONS:
            raise InputError(f"`module` must be of float32 or float64, got {weights.ih.dtype} in {name}; use .double()")
        detached = Weights(*(None if w is None else w.detach() for w in weights))  # type: ignore[arg-type]
        backend = _backend(backend)
        # all that a step needs of the forward, where it is to be had for next to nothing
        size = input.shape[0] * input.shape[1] * len(weights.ih) * weights.ih.element_size()
        known = size <= GATES and compiled(weights.ih, input, backend) is not None
        result = scan(
            *(cell, input, detached, state, lengths),
            reverse=reverse,
            left=left,
            resets=resets,
            masks=masks,
            states=True,
            gates=gates or known,
            backend=backend,
        )
        assert result.states is not None
        order = _Order.of(input, lengths, reverse, left)
        after = {n: order(value.detach()) for n, value in result.states.items()}
        initial = {n: value.detach().to(weights.ih.dtype) for n, value in state.items()}
        given = Given(cell, order(input.detach().to(weights.ih.dtype)), detached, None, _text(cell))
        if known and result.gates is not None:
            flat = order(result.gates.detach().flatten(2))
            given.gates = flat.view(*flat.shape[:2], len(cell.gate_names), -1)
        if masks is not None:
            given.masks = torch.stack([order(mask.detach()) for mask in masks])
        fresh = None if resets is None else order.fresh(resets, reverse)
        kind = CellRun if given.text is None else EquationRun
        run = kind(name, type(cell).__name__, initial, after, order.lengths, fresh, given=given)
        check_finite(run)
        targets = [
            *(_Target(n, True, _tap(value)) for n, value in result.state.items()),
            _Target("h", False, _tap(result.output)),
            *(_Target(n, False, _tap(value)) for n, value in (result.states.items() if states else ())),
        ]
        self.seen.append((run, order, targets))
        count = len(state)
        given_back = [target.value for target in targets]
        every = State(**dict(zip(after, given_back[count + 1 :], strict=True))) if states else None
        final = State(**dict(zip(cell.state_names, given_back[:count], strict=True)))
        return Scanned(given_back[count], final, every, result.gates if gates else None)

    def over(self, cell: Cell, input: Tensor, weights: Weights, initial: Mapping[str, Tensor]) -> Tensor:
        """Run the equation of a step function over [T, B, D] and return its h [T, B, H]."""
        self._current = ("step", 1)
        return self(cell, input, weights, State(**initial)).output

    def differentiate(self, output: Any, loss: Loss | None, module: nn.Module) -> None:
        """Take the gradient of the loss with respect to all that the recurrences gave out."""
        if loss is None:
            top = [targets for _, _, targets in self.seen[-self._current[1] :]]
            value = default_loss(output, top, isinstance(module, LAYERS))
        else:
            value = loss(output)
        self.loss = check_loss(value)
        flat = [target for _, _, targets in self.seen for target in targets]
        found = torch.autograd.grad(value, [target.value for target in flat], allow_unused=True)
        if all(gradient is None for gradient in found):
            raise InputError(NO_STATE)
        gradients = iter(found)
        for run, order, targets in self.seen:
            direct: dict[str, Tensor] = {}
            ends: dict[str, Tensor] = {}
            for target, gradient in zip(targets, gradients, strict=False):
                if gradient is not None:
                    kept = ends if target.last else direct
                    gradient = gradient if target.last else order(gradient)
                    kept[target.state] = kept[target.state] + gradient if target.state in kept else gradient
            self.captured.append(Captured(run, direct, ends))


NO_STATE = (
    "`loss` must depend on the module's recurrent states, and its gradient reaches none of them; was the output "
    "detached?"
)


def check_loss(value: Any) -> float:
    """Return a loss as a number.

    Raises:
        InputError: it is no scalar, not finite, or has no gradient.
    """
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"`loss` must return one number as a tensor, got {found}")
    if not value.requires_grad:
        raise InputError(NO_STATE)
    number = float(value.detach())
    if not math.isfinite(number):
        raise InputError(f"`loss` must be finite, got {number}")
    return number


def project(value: Tensor) -> Tensor:
    """Return the mean over rows of a fixed random projection [B, n] -> [B], of a vector of norm 1."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(value.shape[-1], generator=generator, dtype=torch.float64)
    result: Tensor = (value @ (direction / direction.norm()).to(value)).mean()
    return result


def default_loss(output: Any, last: "list[list[_Target]]", is_layer: bool) -> Tensor:
    """Return the loss that stands for the user's: a projection of the module's output, one vector for each row.

    Where the module gives no such vector, or is itself a layer, it is that of its last layer's h after each row's last
    step, of both directions.
    """
    if not is_layer and isinstance(output, Tensor) and output.dim() == 2 and output.requires_grad:
        return project(output)
    return project(torch.cat([next(t.value for t in targets if t.last and t.state == "h") for targets in last], -1))


@dataclass
class _Target:
    """A tensor given out: all steps of a state or, `last`, that after each row's last step."""

    state: str
    last: bool
    value: Tensor


def _tap(value: Tensor) -> Tensor:
    # an alias that nothing inside the recurrence uses
    return value.view_as(value) if value.requires_grad else value.detach().requires_grad_()


class _Order:
    """From the layout of a layer to the order in which each row's steps run, and without steps that no row has."""

    def __init__(self, lengths: Tensor, at: Tensor | None, valid: Tensor | None) -> None:
        self.lengths, self._at, self._valid = lengths, at, valid

    @staticmethod
    def of(input: Tensor, lengths: Tensor | None, reverse: bool, left: bool) -> "_Order":
        steps, batch = input.shape[:2]
        device = input.device
        if lengths is None:
            full = torch.full((batch,), steps, device=device)
            at = torch.arange(steps - 1, -1, -1, device=device)[:, None].expand(-1, batch) if reverse else None
            return _Order(full, at, None)
        lengths = lengths.to(device, torch.int64)
        step = torch.arange(max(1, int(lengths.max())) if batch else 1, device=device)[:, None]
        first = steps - lengths if left else torch.zeros_like(lengths)
        at = first + (lengths - 1 - step if reverse else step)
        return _Order(lengths, at.clamp(0, steps - 1), step < lengths)

    def __call__(self, value: Tensor) -> Tensor:
        if self._at is None:
            return value
        if value.shape[1] == 0:
            return value[: len(self._at)]
        value = value[self._at, torch.arange(value.shape[1], device=value.device)]
        if self._valid is None:
            return value
        return value.masked_fill(~(self._valid if value.dim() == 2 else self._valid[..., None]), 0)

    def fresh(self, resets: Tensor, reverse: bool) -> Tensor:
        if not reverse:
            return self(resets)
        # backwards a row begins anew after its mark
        fresh = torch.zeros_like(self(resets))
        fresh[1:] = self(resets)[:-1]
        return fresh if self._valid is None else fresh & self._valid


def _backend(backend: str) -> str:
    """Return one that gives all states, in full precision."""
    asked = (os.environ.get("RECUR_BACKEND") or "auto") if backend == "auto" else backend
    return {"torch": "reference", "cpu-bfloat16": "cpu", "parallel": "auto"}.get(asked, asked)


def _text(cell: Cell) -> str | None:
    try:
        return trace(cell).text
    except NotTraceable:
        return None


def check_finite(run: Run) -> None:
    """Refuse states that are not finite.

    Raises:
        InputError: names the layer, the first such step and the row.
    """
    for name, value in run.after.items():
        if not bool(torch.isfinite(value.sum())) and len(bad := (~value.isfinite()).any(2).nonzero()):
            step, row = bad[0].tolist()
            raise InputError(
                f"{run.name}: its state {name} must be finite, got {_worst(value[step, row])} first at step {step} "
                f"(counted as they run), in row {row}"
            )


def _worst(value: Tensor) -> str:
    return "NaN" if bool(value.isnan().any()) else "infinity"


def _observable(kind: type[nn.Module]) -> type[nn.Module]:
    """Return recur's class for one of torch.nn's recurrent ones, and for a class made of one both together."""
    if kind in STAND_INS:
        return STAND_INS[kind]
    for theirs in (nn.RNN, nn.LSTM, nn.GRU):
        if issubclass(kind, theirs) and not issubclass(kind, STAND_INS[theirs]):
            return type(kind.__name__, (kind, STAND_INS[theirs]), {})
    return kind


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Give torch.nn's layers recur's class for the time being, and leave module and random numbers as they were."""
    parts = list(module.modules())
    kinds = [(part, type(part)) for part in parts]
    modes = [part.training for part in parts]
    buffers = [(part, n, b, b.clone()) for part in parts for n, b in part._buffers.items() if b is not None]
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=[device.index for device in devices]):
        try:
            for part in parts:
                part.__class__ = _observable(type(part))
            yield
        finally:
            for (part, kind), mode in zip(kinds, modes, strict=True):
                part.__class__, part.training = kind, mode
            for part, name, buffer, value in buffers:
                part._buffers[name] = buffer
                if not torch.equal(buffer, value):
                    with torch.no_grad():
                        buffer.copy_(value)
