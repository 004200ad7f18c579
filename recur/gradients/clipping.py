"""Gradient clipping in three ways: by value, by the norm of each tensor, by the norm of all together."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from recur.errors import InputError

Named = Iterable[tuple[str, Tensor]]


def clip_by_value(named: Named, limit: float) -> int:
    """Bring every entry of every gradient into [-limit, limit], in place.

    Args:
        named: (name, parameter) pairs, `model.named_parameters()`; parameters without a gradient are left out,
            sparse gradients are summed up first.
        limit: greater than 0.

    Returns:
        How many tensors had an entry outside.

    Raises:
        InputError: a limit that is not a positive number, or a gradient with NaN or infinity in it, by name; all
            gradients are then as they were.

    Source: Mikolov (2012), Statistical language models based on neural networks.
    """
    clipped = 0
    for gradient in _finite(named, limit, "clip by value"):
        clipped += bool((gradient.abs() > limit).any())
        gradient.clamp_(-limit, limit)
    return clipped


def clip_by_norm(named: Named, limit: float) -> int:
    """Scale each gradient tensor by itself so that its 2-norm is at most `limit`, in place.

    Args and errors as `clip_by_value`.

    Returns:
        How many tensors were longer.
    """
    clipped = 0
    for gradient in _finite(named, limit, "clip by norm"):
        norm = _norm(gradient)
        if norm > limit:
            gradient.mul_(limit / norm)
            clipped += 1
    return clipped


def clip_by_global_norm(named: Named, limit: float) -> float:
    """Scale all gradients by one factor so that their 2-norm as one long vector is at most `limit`, in place.

    The direction of the step is kept, unlike with the other two ways.

    Args and errors as `clip_by_value`.

    Returns:
        The norm before.

    Source: Pascanu, Mikolov & Bengio (2013), arXiv:1211.5063, algorithm 1.
    """
    gradients = _finite(named, limit, "clip by global norm")
    norm = math.hypot(*map(_norm, gradients))
    if norm > limit:
        for gradient in gradients:
            gradient.mul_(limit / norm)
    return norm


def global_norm(named: Named) -> float:
    """Return the 2-norm of all gradients as one long vector; parameters without one are left out."""
    return math.hypot(*(_norm(_values(p)) for _, p in named if p.grad is not None))


def nonfinite_gradients(named: Named) -> list[str]:
    """Return the names of the parameters whose gradient holds NaN or infinity."""
    present = [(name, _values(p)) for name, p in named if p.grad is not None]
    # one sum says that all is well; only when it is not, or has overflowed, is each entry looked at
    total = sum(float(values.sum()) for _, values in present)
    if math.isfinite(total):
        return []
    return [name for name, values in present if not bool(values.isfinite().all())]


def _finite(named: Named, limit: float, way: str) -> list[Tensor]:
    if not (math.isfinite(limit) and limit > 0):
        raise InputError(f"the limit of {way} must be greater than 0, got {limit}; leave it out for no clipping")
    pairs = list(named)
    if bad := nonfinite_gradients(pairs):
        raise InputError(
            f"{way} needs finite gradients, got NaN or infinity in {', '.join(bad)}; skip this step, or lower the "
            "learning rate"
        )
    return [_values(p) for _, p in pairs if p.grad is not None]


def _values(parameter: Tensor) -> Tensor:
    """Return the stored entries of a gradient, which share its memory."""
    gradient = parameter.grad
    assert gradient is not None
    if not gradient.is_sparse:
        return gradient.detach()
    if not gradient.is_coalesced():
        # rows that occur more than once must be added before they are measured
        gradient = parameter.grad = gradient.coalesce()
    return gradient.detach()._values()


def _norm(gradient: Tensor) -> float:
    norm = float(torch.linalg.vector_norm(gradient))
    if math.isfinite(norm):
        return norm
    # the squares of large finite entries overflow
    return float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
