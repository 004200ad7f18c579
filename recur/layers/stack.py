"""Layers and directions: what every recurrent layer does around the scan."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recur.cells.cell import Cell, State
from recur.errors import InputError
from recur.scan import Weights, scan


def check_lengths(lengths: Tensor | Sequence[int], batch: int, steps: int, device: torch.device) -> Tensor:
    """Return `lengths` as an int64 tensor [B] on `device`.

    Raises:
        InputError: not B whole numbers in 0..T.
    """
    given = torch.as_tensor(lengths)
    if given.numel() and given.dtype in (torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise InputError(f"`lengths` must be whole numbers, got {given.dtype}")
    if given.shape != (batch,):
        raise InputError(f"`lengths` must have shape [B] = [{batch}], got {list(given.shape)}")
    wrong = () if torch.compiler.is_compiling() else ((given < 0) | (given > steps)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise InputError(f"`lengths` must be in 0..T = 0..{steps}, got {int(given[row])} in row {row}")
    return given.to(device, torch.int64)


def check_finite(input: Tensor, lengths: Tensor | None) -> None:
    """Refuse NaN in the valid steps of `input` [T, B, D].

    Raises:
        InputError: names the row, step and feature of the first NaN.
    """
    if torch.compiler.is_compiling():
        return
    bad = input.isnan()
    if not bad.any():
        return
    if lengths is not None:
        bad = bad & (torch.arange(len(input), device=input.device)[:, None] < lengths)[..., None]
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
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    training: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, State]:
    """Run stacked layers, each in one or two directions.

    Args:
        cell: the recurrence of every layer.
        layers: the weights of each layer: one for the forward direction and, if bidirectional, one for the backward.
        input: [T, B, D].
        state: initial states, each [layers * directions, B, H].
        lengths: [B] int64 or None.
        dropout: probability of zeroing an output between layers, while training.
        recurrent_dropout: probability of zeroing a recurrent weight for the whole sequence, while training
            (DropConnect, Wan et al. 2013; on recurrent weights Merity et al. 2017, arXiv:1708.02182, sec. 2).
        training: whether the dropouts act.
        backend: as for `scan`.

    Returns:
        the last layer's outputs [T, B, H * directions], and the final states, shaped as `state`.
    """
    finals: list[State] = []
    for number, directions in enumerate(layers):
        if number and dropout:
            input = F.dropout(input, dropout, training)
        outputs = []
        for direction, weights in enumerate(directions):
            if recurrent_dropout and weights.hh is not None:
                weights = weights._replace(hh=F.dropout(weights.hh, recurrent_dropout, training))
            index = number * len(directions) + direction
            output, final, _, _ = scan(
                cell,
                input,
                weights,
                state.map(lambda value, index=index: value[index]),  # type: ignore[misc]
                lengths,
                reverse=direction == 1,
                backend=backend,
            )
            outputs.append(output)
            finals.append(final)
        input = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
    return input, State(**{name: torch.stack([getattr(f, name) for f in finals]) for name in cell.state_names})
