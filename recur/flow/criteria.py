"""The criteria by which the books judge a recurrent matrix, beside the exponent that was measured."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from recur.compiler.graph import Equation, gate_values
from recur.flow.result import Criteria

GAMMA = {"sigmoid": 0.25, "tanh": 1.0, "relu": 1.0}
# this near to 1 a criterion foretells nothing
NEAR = 1e-6


def slopes_of(equation: Equation) -> dict[str, float]:
    """Return the largest slope of each gate's activation: 1/4 of sigmoid, 1 of tanh, relu and of a plain sum."""
    found = {}
    new = set(equation.new.values())
    for gate, node in gate_values(equation).items():
        if node.op in GAMMA:
            found[gate] = GAMMA[node.op]
        elif node in new and node.op in ("add", "sub", "x"):
            found[gate] = 1.0
    return found


def judge(
    matrices: Mapping[str, Tensor], gammas: Mapping[str, float], exponent: float, error: float
) -> tuple[Criteria, ...]:
    """Return the criteria of each matrix [H, H], and whether they agree with the largest Lyapunov exponent.

    Args:
        matrices: by gate, float64.
        gammas: the largest slope of the gates' activations, where known.
        exponent: measured, in nats per step.
        error: its standard error; within twice that of 0 nothing vanishes or explodes.
    """
    bound = max(2 * error, NEAR)
    measured = "vanishing" if exponent < -bound else "exploding" if exponent > bound else ""
    each = [(name, matrix, gammas.get(name), measured) for name, matrix in matrices.items()]
    if len(each) < 2:
        return tuple(_judge(*one) for one in each)
    # the eigenvalues of a matrix are found on one thread
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return tuple(pool.map(lambda one: _judge(*one), each))


def _judge(name: str, matrix: Tensor, gamma: float | None, measured: str) -> Criteria:
    matrix = matrix.detach().cpu()
    eigenvalues = torch.linalg.eigvals(matrix).numpy()
    entry, radius = float(matrix.abs().max()), float(np.abs(eigenvalues).max())
    sigma = float(torch.linalg.eigvalsh(matrix @ matrix.T)[-1].clamp(min=0).sqrt())
    bound = None if gamma is None else sigma * gamma
    says = {
        "largest entry": _foretold(entry),
        "spectral radius": _foretold(radius),
        "largest singular value": _foretold(sigma),
        "bound": "vanishing" if bound is not None and bound < 1 - NEAR else "",
    }
    agrees = {criterion: word == measured if word else None for criterion, word in says.items()}
    return Criteria(name, entry, radius, sigma, gamma, bound, eigenvalues.astype(np.complex128), says, agrees)


def _foretold(value: float) -> str:
    return "vanishing" if value < 1 - NEAR else "exploding" if value > 1 + NEAR else ""


def spectral_radius(matrix: Tensor, doublings: int = 12) -> float:
    """Return the largest |eigenvalue| from the growth of the matrix's powers, within about log(n) / 2^doublings.

    The limit of the m-th root of the norm of the m-th power (Gelfand 1941), by squaring: much quicker than eigenvalues.
    """
    power, logarithm = matrix.detach(), 0.0
    for doubling in range(doublings + 1):
        norm = float(torch.linalg.matrix_norm(power))
        if norm == 0:
            return 0.0
        logarithm += float(np.log(norm)) / 2**doubling
        power = power / norm
        power = power @ power
    return float(np.exp(logarithm))
