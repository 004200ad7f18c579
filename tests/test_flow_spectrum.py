"""Singular values and Lyapunov exponents of products of Jacobians, where they are known by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from recur.errors import InputError
from recur.flow.sampled import sampled_lags, sampled_spectra
from recur.flow.spectrum import horizon, lyapunov, product_spectrum, step_spectrum

WHOLE = slice(None)


class Steps:
    """Jacobians given as a tensor [T, n, n]."""

    def __init__(self, jacobians: Tensor) -> None:
        self.jacobians, self.steps, self.size = jacobians.double(), len(jacobians), jacobians.shape[-1]

    def __call__(self, start: int, stop: int) -> Tensor:
        return self.jacobians[start:stop]

    def back(self, rows: Tensor, step: int) -> Tensor:
        return rows @ self.jacobians[step].float()


def rotation(n: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).Q


def permutation(n: int, seed: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]


def chain(logs: Tensor, basis: Callable[[int, int], Tensor] = rotation) -> Steps:
    """J_t = Q_t exp(logs_t) Q_{t-1}^T, whose products have the singular values exp(sum of logs).

    Rounding of rotations is a change of the product: only those of permutations may cross over by more than 1e16.
    """
    bases = [basis(logs.shape[1], seed) for seed in range(len(logs) + 1)]
    return Steps(torch.stack([bases[t + 1] * d.exp() @ bases[t].T for t, d in enumerate(logs)]))


def sums(logs: Tensor) -> np.ndarray:
    """Logarithms of the singular values of d s_{T-1}/d s_t from those of the steps, for t = 0 .. T-1, largest first."""
    after = torch.cat([logs[1:].flip(0).cumsum(0).flip(0), torch.zeros(1, logs.shape[1])])
    return after.sort(dim=1, descending=True).values.numpy()


@pytest.mark.parametrize("n", [1, 2, 5, 40])
@pytest.mark.parametrize("spread", [0.01, 0.5, 3.0])
def test_chains_of_known_singular_values(n: int, spread: float):
    logs = spread * (0.1 * torch.randn(300, n, dtype=torch.float64) + torch.linspace(1, -1, n))
    norms, values = product_spectrum(chain(logs), n, WHOLE)
    assert np.abs(values - sums(logs)).max() < 1e-8
    assert np.array_equal(norms, values[:, 0])


def test_singular_values_cross_over_hundreds_of_decades():
    # the direction that grows first vanishes later: what is smallest at first is largest in the end
    logs = torch.zeros(400, 3, dtype=torch.float64)
    logs[:200] = torch.tensor([4.0, 0.0, -4.0])
    logs[200:] = torch.tensor([-9.0, 0.0, 5.0])
    _, values = product_spectrum(chain(logs, permutation), 3, WHOLE)
    assert values[200].tolist() == pytest.approx([199 * 5, 0, -199 * 9], abs=1e-8)
    assert values[0].tolist() == pytest.approx([200 * 5 - 199 * 4, 0, 199 * 4 - 200 * 9], abs=1e-8)


def test_a_random_walk_of_singular_values():
    logs = 30 * torch.randn(300, 20, dtype=torch.float64)
    _, values = product_spectrum(chain(logs, permutation), 20, WHOLE)
    assert np.abs(values - sums(logs)).max() < 1e-9


@pytest.mark.parametrize("rate", [-7.0, 7.0])
def test_products_beyond_the_range_of_float64(rate: float):
    logs = torch.full((1_000, 2), rate, dtype=torch.float64)
    logs[:, 1] -= 1.0
    jacobians = Steps(logs.exp().diag_embed())
    norms, values = product_spectrum(jacobians, 2, WHOLE)
    assert norms[0] == pytest.approx(999 * rate, rel=1e-12)
    assert values[0].tolist() == pytest.approx([999 * rate, 999 * (rate - 1)], rel=1e-12)
    exponents, errors = lyapunov(jacobians, 2)
    assert exponents.tolist() == pytest.approx([rate, rate - 1], rel=1e-12)
    assert errors.max() < 1e-12


def test_single_steps_near_the_ends_of_the_range():
    jacobians = Steps(torch.diag(torch.tensor([1e300, 1e-300], dtype=torch.float64)).expand(5, 2, 2))
    _, values = product_spectrum(jacobians, 2, WHOLE)
    assert values[0].tolist() == pytest.approx([1200 * math.log(10), -1200 * math.log(10)], rel=1e-12)


def test_rotations_neither_grow_nor_vanish():
    jacobians = Steps(torch.stack([rotation(6, seed) for seed in range(200)]))
    norms, values = product_spectrum(jacobians, 6, slice(0, 3))
    exponents, errors = lyapunov(jacobians, 6)
    for result in (norms, values, exponents, errors):
        assert np.abs(result).max() < 1e-12
    assert horizon(norms) == 200


def test_jordan_block_grows_before_it_vanishes():
    # [[a, 1], [0, a]]^m = a^m [[1, m/a], [0, 1]]: singular values a^m (sqrt(1 + c^2) +- c), c = m / 2a
    a = 0.9
    norms, values = product_spectrum(
        Steps(torch.tensor([[a, 1], [0, a]], dtype=torch.float64).expand(500, 2, 2)), 2, WHOLE
    )
    m = np.arange(499, -1, -1)
    larger = m * math.log(a) + np.arcsinh(m / (2 * a))
    assert np.abs(norms - larger).max() < 1e-9
    assert np.abs(values[:, 1] - (2 * m * math.log(a) - larger)).max() < 1e-9
    assert norms.max() > 1 > 0 > norms[0]


def test_a_nilpotent_matrix_of_radius_0_lasts_n_steps():
    n = 6
    matrix = torch.triu(torch.randn(n, n), 1)
    norms, values = product_spectrum(Steps(matrix.expand(20, n, n)), n, WHOLE)
    assert np.isfinite(norms[-n:]).all()
    assert np.isneginf(norms[:-n]).all()
    assert np.isneginf(values[:-n]).all()
    assert [int(np.isfinite(row).sum()) for row in values[-n:]] == [1, 2, 3, 4, 5, 6]


def test_a_zero_step_cuts_everything_before_it():
    jacobians = Steps(torch.eye(3).repeat(10, 1, 1))
    jacobians.jacobians[4] = 0
    norms, values = product_spectrum(jacobians, 3, WHOLE)
    assert np.isneginf(values[:4]).all()
    assert (values[4:] == 0).all()
    assert horizon(norms) == 5
    exponents, errors = lyapunov(jacobians, 3)
    assert np.isneginf(exponents).all()
    assert (errors == 0).all()


def test_dead_units_leave_the_others_exponents():
    jacobians = torch.randn(100, 5, 5)
    jacobians[:, 2:] = 0
    exponents, errors = lyapunov(Steps(jacobians), 5)
    assert np.isneginf(exponents).tolist() == [False, False, True, True, True]
    assert np.isfinite(errors).all()


def test_only_the_observed_part_of_the_last_state_counts():
    # two chains that do not touch: h halves, c triples
    jacobians = Steps(torch.diag(torch.tensor([0.5, 0.5, 3.0, 3.0])).expand(400, 4, 4))
    norms, values = product_spectrum(jacobians, 2, slice(0, 2))
    assert norms[0] == pytest.approx(399 * math.log(0.5), rel=1e-12)
    assert values[0].tolist() == pytest.approx([399 * math.log(3.0)] * 2, rel=1e-12)
    jacobians.jacobians = torch.tensor([[0.0, 0], [1, 1]]).double().expand(400, 2, 2)
    jacobians.size = 2
    norms, values = product_spectrum(jacobians, 1, slice(0, 1))
    assert norms[-1] == 0
    assert np.isneginf(norms[:-1]).all()
    assert np.isfinite(values).all()


@pytest.mark.parametrize("n", [3, 30])
def test_short_products_agree_with_their_svd(n: int):
    jacobians = torch.randn(8, n, n, dtype=torch.float64) / n**0.5
    norms, values = product_spectrum(Steps(jacobians), 3, slice(1, 3))
    product = torch.eye(n, dtype=torch.float64)
    for t in range(6, -1, -1):
        product = product @ jacobians[t + 1]
        assert values[t] == pytest.approx(torch.linalg.svdvals(product)[:3].log().numpy(), abs=1e-7)
        assert norms[t] == pytest.approx(float(torch.linalg.matrix_norm(product[1:3], 2).log()), abs=1e-9)
    assert step_spectrum(Steps(jacobians), 3) == pytest.approx(torch.linalg.svdvals(jacobians)[:, :3].numpy())


def test_the_largest_singular_values_of_large_steps():
    jacobians = torch.randn(20, 160, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    jacobians[:3] = rotation(160, 0) * torch.linspace(1, 2, 160, dtype=torch.float64)
    jacobians[9] *= 1e-200
    jacobians[12] = torch.outer(jacobians[12, 0], jacobians[12, 1])
    jacobians[15] = 0
    jacobians[17] = torch.eye(160)
    exact = torch.linalg.svdvals(jacobians)[:, :4].numpy()
    assert step_spectrum(Steps(jacobians), 4) == pytest.approx(exact, rel=1e-4, abs=1e-12 * exact[12, 0])


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_large_products_need_only_their_leading_terms(spread: float):
    logs = spread * (0.1 * torch.randn(60, 140, dtype=torch.float64) + torch.linspace(1, -1, 140))
    norms, values = product_spectrum(chain(logs), 8, WHOLE)
    assert np.abs(values - sums(logs)[:, :8]).max() < 1e-6
    assert np.array_equal(norms, values[:, 0])


def test_what_is_left_out_of_a_large_product_may_come_back():
    # twenty directions vanish below all others, and are the largest in the end
    logs = torch.zeros(100, 140, dtype=torch.float64)
    logs[50:, :20] = -2.0
    logs[:50, :20] = torch.linspace(3, 4, 20)
    _, values = product_spectrum(chain(logs, permutation), 6, WHOLE)
    assert np.abs(values - sums(logs)[:, :6]).max() < 1e-6


def test_what_a_large_product_hides_from_the_observed_part():
    # h fades, c does not: what is left out is far below c, but not below h
    rates = torch.cat([torch.linspace(-1.5, -1, 40), torch.linspace(-0.5, 0, 100)]).double()
    norms, values = product_spectrum(Steps(rates.exp().diag().expand(80, 140, 140)), 3, slice(0, 40))
    lags = np.arange(79, -1, -1)
    assert np.abs(norms + lags).max() < 1e-6
    assert np.abs(values - lags[:, None] * rates.sort(descending=True).values[:3].numpy()).max() < 1e-6


def test_sampled_spectra_beyond_the_range_of_floats():
    basis, rates = rotation(140, 0), torch.linspace(0.4, -1, 140, dtype=torch.float64)
    spectra = sampled_spectra(Steps((basis * rates.exp() @ basis.T).expand(3_000, 140, 140)), 3, WHOLE)
    lags = np.arange(2_999, -1, -1)
    error = np.abs(spectra.log_values - lags[:, None] * rates[:3].numpy())
    assert error[2_999 - np.array(sampled_lags(3_000))].max() < 1e-3
    assert error.max() < 0.05
    assert np.array_equal(spectra.log_norm, spectra.log_values[:, 0])
    assert spectra.exponents == pytest.approx(rates[:3].numpy(), abs=1e-3)
    assert spectra.step_values == pytest.approx(np.broadcast_to(rates[:3].exp().numpy(), (3_000, 3)), rel=1e-3)


def test_sampled_spectra_are_none_where_what_was_left_out_comes_back():
    logs = torch.zeros(100, 140, dtype=torch.float64)
    logs[50:, :20] = -2.0
    logs[:50, :20] = torch.linspace(3, 4, 20)
    assert sampled_spectra(chain(logs, permutation), 6, WHOLE) is None
    logs[:50, :20] = -1.0
    values = sampled_spectra(chain(logs, permutation), 6, WHOLE).log_values
    assert np.abs(values).max() < 1e-3


def test_sampled_lags_reach_from_the_first_to_the_last():
    for steps in (1, 2, 3, 50, 200):
        lags = sampled_lags(steps)
        assert lags[0] == 0
        assert lags[-1] == steps - 1
        assert lags == sorted(set(lags))
    assert len(lags) < 25


def test_one_step():
    jacobians = Steps(torch.randn(1, 3, 3))
    norms, values = product_spectrum(jacobians, 3, WHOLE)
    assert norms.tolist() == [0]
    assert values.tolist() == [[0, 0, 0]]
    assert horizon(norms) == 1
    exponents, errors = lyapunov(jacobians, 2)
    assert np.isfinite(exponents).all()
    assert np.isinf(errors).all()


def henon(steps: int) -> Steps:
    """Jacobians of the Henon map x' = 1 - 1.4 x^2 + y, y' = 0.3 x along an orbit."""
    x, y, orbit = 0.1, 0.1, []
    for step in range(steps + 100):
        if step >= 100:
            orbit.append([[-2.8 * x, 1.0], [0.3, 0.0]])
        x, y = 1 - 1.4 * x * x + y, 0.3 * x
    return Steps(torch.tensor(orbit, dtype=torch.float64))


@pytest.mark.parametrize("steps", [500, 10_000])
def test_lyapunov_exponents_of_the_henon_map(steps: int):
    # 0.41922 and -1.62319: Sprott 2003, Chaos and Time-Series Analysis, appendix A
    exponents, errors = lyapunov(henon(steps), 2)
    assert (np.abs(exponents - [0.41922, -1.62319]) < 3 * errors + 1e-5).all()
    assert errors.max() < 1 / steps**0.5
    assert exponents.sum() == pytest.approx(math.log(0.3), rel=1e-10)


def test_errors_cover_the_truth_about_as_often_as_they_should():
    # growth of one direction as an autoregressive process of mean 0
    inside = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(500, generator=generator, dtype=torch.float64)
        growth = [noise[0]]
        for value in noise[1:]:
            growth.append(0.7 * growth[-1] + value)
        exponents, errors = lyapunov(Steps(torch.stack(growth).exp().view(-1, 1, 1)), 1)
        inside += bool(abs(exponents[0]) < 2 * errors[0])
    assert inside >= 33


def test_horizon():
    decay = np.log(0.5) * np.arange(20)[::-1]
    assert horizon(decay) == 6
    assert horizon(-decay) == 6
    assert horizon(np.zeros(7)) == 7


def test_errors_name_what_is_wrong():
    jacobians = Steps(torch.ones(4, 2, 2))
    with pytest.raises(InputError, match=r"`k` must be in 1 \.\. n = 2, got 3"):
        step_spectrum(jacobians, 3)
    jacobians.jacobians[2, 0, 0] = math.nan
    for call in (lambda: product_spectrum(jacobians, 1, WHOLE), lambda: lyapunov(jacobians, 1)):
        with pytest.raises(InputError, match="Jacobian of step 2 is not finite"):
            call()
