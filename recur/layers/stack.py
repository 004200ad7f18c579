"""Layers and directions: what every recurrent layer does around the scan."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recur.cells.cell import Cell, State
from recur.cells.zoneout import masks_for
from recur.errors import InputError, nearest
from recur.layers.checkpoint import in_segments
from recur.layers.parallel import parallel
from recur.scan import Scanned, Weights, readable, scan

PADDINGS = ["right", "left"]

# what runs in place of `scan`, with the same arguments, while a module's recurrences are observed
OBSERVER: ContextVar[Callable[..., Scanned] | None] = ContextVar("observer", default=None)


def observer() -> Callable[..., Scanned] | None:
    """Return what observes the recurrences of this thread, or None."""
    return None if torch.compiler.is_compiling() else OBSERVER.get()


class Trace(NamedTuple):
    """All that a layer computed, from its `trace` method.

    `output` and `state` are those of a call. `states` and `gates` have an entry for each layer and direction, in the
    order of `state`: layer * directions + direction, a layer's forward direction before its backward one. Each is laid
    out as the input and zero at padded steps.
    """

    output: Tensor
    """The last layer's outputs, [T, B, H * directions] or [B, T, H * directions]; with what `residual` adds."""
    state: State
    """The states after each row's own last step, [layers * directions, B, H]."""
    states: tuple[State, ...]
    """The states after every step by name, `states[0].h` [T, B, H] or [B, T, H] (h [.., P] if projected)."""
    gates: tuple[dict[str, Tensor], ...]
    """The gates at every step by name, `gates[0]["f"]` [T, B, H] or [B, T, H]: the activation of the pre-activation, or
    that itself where the equation uses it in several places. Without gradient."""

    def transposed(self) -> "Trace":
        """Return it with time and batch exchanged in all but `state`."""
        return Trace(
            self.output.transpose(0, 1),
            self.state,
            tuple(state.map(lambda value: value.transpose(0, 1)) for state in self.states),
            tuple({name: value.transpose(0, 1) for name, value in gates.items()} for gates in self.gates),
        )


def time_first(input: Tensor, size: int, batch_first: bool) -> Tensor:
    """Return the input of a layer as [T, B, D].

    Raises:
        InputError: it is no tensor, or not of the layer's layout with D = `size`.
    """
    if not isinstance(input, Tensor):
        raise InputError(f"`input` must be a tensor, got {type(input).__name__}; give `lengths` for ragged rows")
    if input.dim() != 3 or input.shape[-1] != size:
        layout = "[B, T, D]" if batch_first else "[T, B, D]"
        raise InputError(f"`input` must be {layout} with D = {size}, got {list(input.shape)}")
    return input.transpose(0, 1) if batch_first else input


def check_lengths(lengths: Tensor | Sequence[int], batch: int, steps: int, device: torch.device) -> Tensor:
    """Return `lengths` as an int64 tensor [B] on `device`.

    Raises:
        InputError: not B whole numbers in 0..T.
    """
    given = lengths if isinstance(lengths, Tensor) else torch.as_tensor(lengths, device=device)
    if given.numel() and given.dtype in (torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise InputError(f"`lengths` must be whole numbers, got {given.dtype}")
    if given.shape != (batch,):
        raise InputError(f"`lengths` must have shape [B] = [{batch}], got {list(given.shape)}")
    wrong = ((given < 0) | (given > steps)).nonzero() if readable(given) else given[:0]
    if len(wrong):
        row = int(wrong[0])
        raise InputError(f"`lengths` must be in 0..T = 0..{steps}, got {int(given[row])} in row {row}")
    return given.to(device, torch.int64)


def check_resets(resets: Tensor, input: Tensor, batch_first: bool) -> Tensor:
    """Return `resets`, laid out as the layer's `input`, as [T, B] on the device of `input` [T, B, D].

    Raises:
        InputError: not of type bool, or of another shape.
    """
    steps, batch = input.shape[:2]
    shape, layout = ((batch, steps), "[B, T]") if batch_first else ((steps, batch), "[T, B]")
    if not isinstance(resets, Tensor) or resets.dtype != torch.bool:
        found = resets.dtype if isinstance(resets, Tensor) else type(resets).__name__
        raise InputError(f"`resets` must be a tensor of torch.bool, got {found}")
    if resets.shape != shape:
        raise InputError(f"`resets` must be {layout} = {list(shape)}, got {list(resets.shape)}")
    return (resets.transpose(0, 1) if batch_first else resets).to(input.device)


def padded_left(padding: str) -> bool:
    """Return whether `padding` is "left".

    Raises:
        InputError: it is neither "right" nor "left".
    """
    if padding not in PADDINGS:
        raise InputError(f"`padding` must be 'right' or 'left', got {padding!r}{nearest(str(padding), PADDINGS)}")
    return padding == "left"


def check_finite(input: Tensor, lengths: Tensor | None, left: bool = False) -> None:
    """Refuse NaN in the valid steps of `input` [T, B, D].

    Raises:
        InputError: names the row, step and feature of the first NaN.
    """
    if not readable(input):
        return
    bad = input.isnan()
    if not bad.any():
        return
    if lengths is not None:
        step = torch.arange(len(input), device=input.device)[:, None]
        bad = bad & (step >= len(input) - lengths if left else step < lengths)[..., None]
    found = bad.transpose(0, 1).nonzero()
    if len(found):
        row, step, feature = found[0].tolist()
        raise InputError(f"`input` must hold numbers, got NaN in row {row}, step {step}, feature {feature}")


def run_stack(
    cell: Cell,
    layers: Sequence[Sequence[Weights]],
    input: Tensor,
    state: State,
    lengths: Tensor | None = None,
    *,
    left: bool = False,
    resets: Tensor | None = None,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    residual: bool = False,
    training: bool = False,
    backend: str = "auto",
    trace: bool = False,
    checkpoint: int | str | None = None,
) -> Trace:
    """Run stacked layers, each in one or two directions.

    Args:
        cell: the recurrence of every layer.
        layers: the weights of each layer: one for the forward direction and, if bidirectional, one for the backward.
        input: [T, B, D].
        state: initial states, each [layers * directions, B, H].
        lengths: [B] int64 or None.
        left: whether the padding stands before the valid steps.
        resets: bool [T, B], see `scan`, or None.
        dropout: probability of zeroing an output between layers, while training.
        recurrent_dropout: probability of zeroing a recurrent weight for the whole sequence, while training
            (DropConnect, Wan et al. 2013; on recurrent weights Merity et al. 2017, arXiv:1708.02182, sec. 2).
        residual: whether each layer but the first adds what it reads, before dropout, to its outputs
            (Wu et al. 2016, arXiv:1609.08144, section 3.1).
        training: whether the dropouts act, and masks that the cell asks for are drawn.
        backend: as for `scan`, or "parallel".
        trace: whether to keep the states and gates of every step; without it both are empty.
        checkpoint: what is kept for the backward of a call without trace, see `recur.checkpoint_plan`.

    Returns:
        the last layer's outputs [T, B, H * directions], the final states, shaped as `state`, and what `trace` asks for.
    """
    watch = observer()
    if checkpoint is not None and watch is None and not trace:
        found = in_segments(
            cell,
            layers,
            input,
            state,
            lengths,
            left=left,
            resets=resets,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            residual=residual,
            training=training,
            backend=backend,
            checkpoint=checkpoint,
        )
        if found is not None:
            return Trace(found[0], _stacked(found[1]), (), ())
    finals: list[State] = []
    states: list[State] = []
    gates: list[dict[str, Tensor]] = []
    steps, batch = input.shape[:2]
    for number, directions in enumerate(layers):
        read = input
        if number and dropout:
            input = F.dropout(input, dropout, training)
        outputs = []
        for direction, weights in enumerate(directions):
            if recurrent_dropout and weights.hh is not None:
                weights = weights._replace(hh=F.dropout(weights.hh, recurrent_dropout, training))
            masks = None
            if cell.masks:
                like = weights.ih.new_empty(()).expand(batch, len(weights.ih) // len(cell.gate_names))
                masks = masks_for(cell, steps, like, draw=training)
            index = number * len(directions) + direction
            before = State(**{name: value[index] for name, value in state.items()})
            order: dict[str, Any] = {"reverse": direction == 1, "left": left, "resets": resets, "masks": masks}
            if watch is None and backend == "parallel":
                result = parallel(cell, input, weights, before, lengths, **order)
            else:
                run = watch or scan
                result = run(cell, input, weights, before, lengths, states=trace, gates=trace, backend=backend, **order)
            outputs.append(result.output)
            finals.append(result.state)
            if result.states is not None and result.gates is not None:
                states.append(result.states)
                gates.append(dict(zip(cell.gate_names, result.gates.unbind(2), strict=True)))
        input = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        if residual and number:
            input = read + input
    return Trace(input, _stacked(finals), tuple(states), tuple(gates))


def _stacked(finals: Sequence[State]) -> State:
    first, *others = finals
    # a view made without gradient could not be changed in place with one; a trace is to be the same in either mode
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if others or tracing or not torch.is_grad_enabled():
        return State(**{name: torch.stack([getattr(f, name) for f in finals]) for name, _ in first.items()})
    return first.map(lambda value: value.unsqueeze(0))
