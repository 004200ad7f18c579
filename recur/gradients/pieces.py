"""What the functions of long sequences have in common: windows along time, and the states that are carried."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from recur.errors import InputError

# loss(module, state, window) -> (loss, state)
Loss = Callable[[nn.Module, Any, Any], tuple[Any, Any]]


def steps_of(window: Any, time: int) -> int:
    """Return how many steps a window has.

    Raises:
        InputError: it holds no tensor, or tensors of different length.
    """
    lengths = {leaf.shape[time] if leaf.dim() > time else 0 for leaf in pytree.tree_leaves(window) if _is(leaf)}
    if len(lengths) != 1:
        raise InputError(
            f"a window must hold tensors of one length along axis {time} (`time`), got "
            f"{' and '.join(map(str, sorted(lengths))) or 'no tensor'}"
        )
    return int(lengths.pop())


def part_of(window: Any, start: int, stop: int, time: int) -> Any:
    """Return the steps from `start` up to, not including, `stop`."""
    return pytree.tree_map(lambda leaf: leaf.narrow(time, start, stop - start) if _is(leaf) else leaf, window)


def joined(before: Any, after: Any, time: int) -> Any:
    """Return two windows one after the other; what is no tensor is taken from the second.

    Raises:
        InputError: they differ in more than their length.
    """
    try:
        return pytree.tree_map(lambda a, b: torch.cat([a, b], time) if _is(a) else b, before, after)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            f"a window must be laid out as the one before, of the same rows: {error}; call `reset` where a new stream "
            "begins"
        ) from error


def detached(state: Any) -> Any:
    """Return a state of its own memory without history.

    Raises:
        InputError: it holds something else than tensors, numbers and None in tuples, lists, dicts and States.
    """
    return pytree.tree_map(_detached, state)


def _detached(leaf: Any) -> Any:
    if _is(leaf):
        # a state may be a view of all the outputs
        return leaf.detach().clone()
    if leaf is None or isinstance(leaf, int | float | str):
        return leaf
    raise InputError(
        f"a carried state must be made of tensors in tuples, lists, dicts or State, got {type(leaf).__name__}"
    )


def call(loss: Loss, module: nn.Module, state: Any, window: Any) -> tuple[Any, Any]:
    """Return the loss and the new state.

    Raises:
        InputError: the function returns something else.
    """
    result = loss(module, state, window)
    if not isinstance(result, tuple) or len(result) != 2:
        raise InputError(f"`loss` must return (loss, state), got {type(result).__name__}")
    value = result[0]
    if _is(value) and value.numel() != 1:
        raise InputError(f"`loss` must return one number and a state, got a loss of shape {list(value.shape)}")
    return result


def random_state() -> list[Tensor]:
    """Return the state of torch's generators: of the CPU and, where there is one, of the current CUDA device."""
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if cuda else [])]


def set_random_state(states: list[Tensor]) -> None:
    """Carry the generators on from `random_state`."""
    torch.set_rng_state(states[0].cpu())
    if len(states) > 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[1].cpu())


def _is(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)
