"""What introductions to recurrent networks say about gradients, put to the measure.

    python examples/claims.py            # every claim: what is said, what holds, the figures
    python examples/claims.py A1 C4      # some of them

The letters stand for the texts that docs/vanishing.md names. Every figure is computed here; each claim asserts what its
verdict says, so that the page cannot say otherwise. Half a minute for all of them.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import recur
from recur import Cell, State

TRUE, CONDITIONAL, WRONG = "true", "true under conditions", "wrong"
STEPS = 100


@dataclass(frozen=True)
class Claim:
    """A claim, its verdict, and the function that measures it and returns the figures as a sentence."""

    key: str
    says: str
    verdict: str
    measure: Callable[[], str]


CLAIMS: list[Claim] = []


def claim(key: str, says: str, verdict: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Put a measurement on the list."""

    def add(measure: Callable[[], str]) -> Callable[[], str]:
        CLAIMS.append(Claim(key, says, verdict, measure))
        return measure

    return add


class Linear(Cell):
    """h_t = x_t + U h_{t-1}: what is left of a simple network without its activation."""

    gates = "a"

    def step(x, U, s):
        """Return h_t."""
        return State(h=x.a + U.a(s.h))


def layer(cell: Cell | type[Cell] | str, matrix: Tensor, inputs: float = 0.0) -> recur.Recurrent:
    """Return a layer of one gate with U = `matrix` [H, H] and an input of size 1 that is scaled by `inputs`."""
    made = recur.Recurrent(cell, 1, len(matrix), dtype=torch.float64)
    with torch.no_grad():
        made.weight_ih_l0.normal_().mul_(inputs)
        made.bias_ih_l0.zero_()
        made.weight_hh_l0.copy_(matrix)
    return made


def flow_of(module: nn.Module, steps: int = STEPS, size: int = 1, **options: object) -> recur.GradientFlow:
    """Return the gradient flow over `steps` steps of noise [T, 4, size]."""
    torch.manual_seed(0)
    return recur.gradient_flow(module, torch.randn(steps, 4, size, dtype=torch.float64), **options)


def orthogonal(size: int) -> Tensor:
    """Draw an orthogonal matrix."""
    torch.manual_seed(1)
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]


def gaussian(size: int) -> Tensor:
    """Draw a matrix of spectral radius about 1: entries of variance 1/size."""
    torch.manual_seed(2)
    return torch.randn(size, size, dtype=torch.float64) / math.sqrt(size)


def rate(flow: recur.GradientFlow) -> float:
    """Return ln |dh_T/dh_1| per step."""
    return float(flow.log_jacobian[0]) / (flow.steps - 1)


def spectral_radius(matrix: Tensor) -> float:
    """Return max |eigenvalue|."""
    return float(torch.linalg.eigvals(matrix).abs().max())


def largest_singular_value(matrix: Tensor) -> float:
    """Return the spectral norm."""
    return float(torch.linalg.matrix_norm(matrix, 2))


# --- the derivation ---


@claim("C1", "dh_t/dh_i is a sum of the steps' Jacobians", WRONG)
def product_not_sum() -> str:
    """Compare both with autograd."""
    U = gaussian(8)
    torch.manual_seed(0)
    x = torch.randn(4, 8, dtype=torch.float64)
    h = [torch.zeros(8, dtype=torch.float64)]
    jacobians = []
    for row in x:
        h.append(torch.tanh(row + U @ h[-1]))
        jacobians.append(torch.diag(1 - h[-1] ** 2) @ U)

    def run(first: Tensor) -> Tensor:
        for row in x[1:]:
            first = torch.tanh(row + U @ first)
        return first

    truth = torch.autograd.functional.jacobian(run, h[1])
    product = jacobians[3] @ jacobians[2] @ jacobians[1]
    total = jacobians[3] + jacobians[2] + jacobians[1]
    near, far = float((product - truth).norm() / truth.norm()), float((total - truth).norm() / truth.norm())
    assert near < 1e-12 < 1 < far
    return f"relative error against autograd over 3 steps: product {near:.0e}, sum {far:.1f}"


@claim("C2", "the step's Jacobian is U^T diag(phi'), the slope taken at the state h", WRONG)
def slope_of_the_preactivation() -> str:
    """Compare with the slope at the pre-activation of the same step."""
    U = gaussian(8)
    torch.manual_seed(0)
    x, before = torch.randn(8, dtype=torch.float64), torch.rand(8, dtype=torch.float64)
    truth = torch.autograd.functional.jacobian(lambda h: torch.tanh(x + U @ h), before)
    z = x + U @ before
    slope = torch.diag(1 - torch.tanh(z) ** 2)

    def error(value: Tensor) -> float:
        return float((value - truth).norm() / truth.norm())

    at_z, transposed = error(slope @ U), error((U.T @ slope).T)
    at_h = error(torch.diag(1 - torch.tanh(torch.tanh(z)) ** 2) @ U)
    at_before = error(torch.diag(1 - torch.tanh(before) ** 2) @ U)
    assert max(at_z, transposed) < 1e-12
    assert min(at_h, at_before) > 0.1
    return (
        f"relative error: slope at z_t {at_z:.0e}, and the same in the transposed layout {transposed:.0e}; "
        f"at h_t {at_h:.2f}, at h_(t-1) {at_before:.2f}"
    )


@claim("D1", "the product of the slopes and the power U^(T-1) can be taken apart", WRONG)
def matrices_do_not_commute() -> str:
    """Compare (prod D_t) U^n with prod (D_t U)."""
    U = gaussian(8)
    torch.manual_seed(0)
    slopes = [torch.diag(torch.rand(8, dtype=torch.float64)) for _ in range(10)]
    together = torch.linalg.multi_dot([part for slope in slopes for part in (slope, U)])
    apart = torch.linalg.multi_dot([*slopes, torch.linalg.matrix_power(U, 10)])
    ratio = largest_singular_value(apart) / largest_singular_value(together)
    alone = 0.7**10 * 0.9**10 / math.prod([0.7 * 0.9] * 10)
    assert abs(math.log(ratio)) > 1
    assert abs(alone - 1) < 1e-12
    return f"10 steps of 8 units: the norm comes out wrong by a factor {ratio:.2g}; with one unit it is right"


@claim("A1", "dL/dU is the sum of delta_k h_(k-1)^T over the steps", TRUE)
def gradient_by_hand() -> str:
    """Compare with autograd at T = 3."""
    torch.manual_seed(0)
    U = gaussian(5).requires_grad_()
    x, y = torch.randn(3, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    h = [torch.zeros(5, dtype=torch.float64)]
    for row in x:
        h.append(torch.tanh(row + U @ h[-1]))
    ((h[3] - y) ** 2).sum().backward()
    with torch.no_grad():
        delta = 2 * (h[3] - y) * (1 - h[3] ** 2)
        total = torch.zeros_like(U)
        for k in (3, 2, 1):
            total += torch.outer(delta, h[k - 1])
            delta = (U.T @ delta) * (1 - h[k - 1] ** 2)
    error = float((total - U.grad).norm() / U.grad.norm())
    assert error < 1e-12
    return f"T = 3 by hand against autograd: relative difference {error:.0e}"


# --- slopes ---


@claim("A2", "sigmoid' is at most 1/4, so the gradients of a sigmoid network vanish", CONDITIONAL)
def sigmoid_slope() -> str:
    """Take U orthogonal, and 8 times that around the middle of the sigmoid."""
    small = rate(flow_of(layer(recur.cells.Elman("sigmoid"), orthogonal(32))))
    large = layer(recur.cells.Elman("sigmoid"), 8 * gaussian(32))
    with torch.no_grad():
        large.bias_ih_l0.copy_(-large.weight_hh_l0.sum(1) / 2)  # h = 1/2 is then a fixed point
    grown = rate(flow_of(large))
    assert small < -math.log(4) + 1e-9
    assert grown > 0
    return (
        f"U orthogonal: {small:.3f} nats per step, and ln 1/4 = {-math.log(4):.3f}; "
        f"U of radius {spectral_radius(large.weight_hh_l0.detach()):.1f}: {grown:+.3f}, it grows"
    )


@claim("D2", "tanh' < 1 except at 0, so the product of the slopes vanishes", CONDITIONAL)
def tanh_slope() -> str:
    """Take the same orthogonal U with small inputs and with large ones."""
    quiet, loud = (flow_of(layer("rnn", orthogonal(32), size)) for size in (0.01, 1.0))
    assert quiet.horizon == STEPS
    assert rate(loud) < -0.1
    return (
        f"U orthogonal, inputs of size 0.01: {rate(quiet):.4f} nats per step, all {STEPS} steps are reached; "
        f"of size 1: {rate(loud):.3f}, {loud.horizon} steps"
    )


# --- three criteria ---


@claim("C3", "gradients explode if the largest entry of U is above 1, and vanish if it is below", WRONG)
def largest_entry() -> str:
    """Take a matrix of small entries and large radius, and one of a large entry and no radius."""
    dense, shift = torch.full((64, 64), 0.05, dtype=torch.float64), torch.diag(torch.full((7,), 3.0).double(), 1)
    grows, dies = flow_of(layer(Linear, dense)), flow_of(layer(Linear, shift), steps=20)
    assert rate(grows) > 1
    assert dies.log_jacobian[0] == -math.inf
    return (
        f"all entries 0.05, 64 units: {rate(grows):+.3f} nats per step; "
        f"largest entry 3 above the diagonal, 8 units: exactly 0 after 8 steps"
    )


@claim("D3", "gradients explode if the largest singular value of U is above 1", WRONG)
def singular_value_above() -> str:
    """Take torch's own start, and a nilpotent matrix."""
    torch.manual_seed(0)
    start = recur.RNN(1, 128, dtype=torch.float64)
    flow = flow_of(start)
    sigma = largest_singular_value(start.weight_hh_l0.detach())
    assert sigma > 1.1
    assert rate(flow) < -0.4
    return f"torch.nn's start, 128 units: largest singular value {sigma:.2f}, measured {rate(flow):.3f} nats per step"


@claim("D4", "gradients vanish if the largest singular value of U is below 1", TRUE)
def singular_value_below() -> str:
    """With tanh the slopes are at most 1: the bound holds at every lag."""
    U = 0.95 * orthogonal(32)
    flow = flow_of(layer("rnn", U, 0.5))
    lags = torch.arange(STEPS - 1, -1, -1, dtype=torch.float64)
    assert (torch.from_numpy(flow.log_jacobian) <= lags * math.log(0.95) + 1e-9).all()
    return f"0.95: never above 0.95^lag, at lag {STEPS - 1} {math.exp(flow.log_jacobian[0]):.1e} <= {0.95**99:.1e}"


@claim("E1", "gradients vanish if all |eigenvalues| of U are below 1", CONDITIONAL)
def eigenvalues_below() -> str:
    """Take a Jordan block: in the long run they do, but first they grow."""
    block = 0.5 * torch.eye(12, dtype=torch.float64) + torch.diag(torch.ones(11, dtype=torch.float64), 1)
    flow = flow_of(layer(Linear, block), steps=200)
    peak = float(flow.log_jacobian.max())
    at = flow.steps - 1 - int(flow.log_jacobian.argmax())
    assert peak > math.log(100)
    assert rate(flow) < -0.3
    return f"Jordan block of 12, |eigenvalues| 0.5: grows {math.exp(peak):.0f}-fold over {at} steps, then fades"


@claim("E2", "gradients explode if some |eigenvalue| of U is above 1", CONDITIONAL)
def eigenvalues_above() -> str:
    """Without an activation they do; with tanh large inputs saturate it."""
    U = 1.2 * orthogonal(32)
    linear, tanh = flow_of(layer(Linear, U)), flow_of(layer("rnn", U, 2.0))
    assert abs(rate(linear) - math.log(1.2)) < 1e-9
    assert rate(tanh) < -0.1
    return f"|eigenvalues| 1.2: linear {rate(linear):+.3f} nats per step, tanh with inputs of size 2 {rate(tanh):+.3f}"


@claim("A3", "a large U makes the gradients explode", CONDITIONAL)
def large_matrix() -> str:
    """Take a random U of growing size without inputs, and with large ones."""
    parts = []
    for size in (1.0, 2.0, 4.0):
        quiet, loud = (rate(flow_of(layer("rnn", size * gaussian(64), inputs), 200)) for inputs in (0.01, 10.0))
        parts.append(f"radius {size:g}: {quiet:+.3f}, under large inputs {loud:+.3f}")
        assert loud < quiet
    return "nats per step: " + "; ".join(parts)


# --- who contributes ---


@claim("A4", "the first steps contribute little to dL/dU, the last ones much", CONDITIONAL)
def shares() -> str:
    """Take torch's start, and an orthogonal one with small inputs."""
    torch.manual_seed(0)
    vanishing, even = flow_of(recur.RNN(1, 32, dtype=torch.float64)), flow_of(layer("rnn", orthogonal(32), 0.01))
    last, first = float(vanishing.weight_share[-10:].sum()), float(vanishing.weight_share[:10].sum())
    assert last > 0.9
    assert first < 1e-6
    assert float(even.weight_share[:50].sum()) > 0.02
    return (
        f"torch.nn's start: the last 10 of {STEPS} steps make {100 * last:.1f}% of it, the first 10 {first:.0e}; "
        f"U orthogonal, small inputs: the last 10 make {100 * float(even.weight_share[-10:].sum()):.0f}%"
    )


@claim("B1", "layers and time steps multiply, so that gradients vanish or explode all the more", CONDITIONAL)
def depth_multiplies() -> str:
    """Measure dL/dh at the last and the first step of the lowest of 1, 2, 4, 8 layers."""
    last, first = [], []
    for layers in (1, 2, 4, 8):
        torch.manual_seed(0)
        flow = flow_of(recur.RNN(1, 32, layers, dtype=torch.float64), steps=20, loss=lambda result: result[0][-1].sum())
        last.append(float(flow.layers[0].hidden_gradient[-1]))
        first.append(float(flow.layers[0].hidden_gradient[0]))
    assert last[-1] < last[0] / 10
    assert first[-1] > first[0]
    return (
        f"|dL/dh| in the lowest of 1, 2, 4, 8 layers: at the last step {', '.join(f'{v:.1e}' for v in last)}; at the "
        f"first of 20 {', '.join(f'{v:.1e}' for v in first)}: each path is longer, but paths up and along are many more"
    )


# --- remedies ---


@claim("C4", "a higher learning rate helps against vanishing gradients", WRONG)
def learning_rate() -> str:
    """The learning rate multiplies every step's share alike."""
    torch.manual_seed(0)
    net = recur.RNN(1, 32, dtype=torch.float64)
    flow = flow_of(net)
    scaled = flow_of(net, loss=lambda result: 100 * result[0][-1].sum())
    plain = flow_of(net, loss=lambda result: result[0][-1].sum())
    difference = float(abs(scaled.weight_share - plain.weight_share).max())
    assert difference < 1e-12
    return (
        f"a step 100 times as large changes no step's share (by {difference:.0e} at most): the first half "
        f"has {float(plain.weight_share[:50].sum()):.0e} of it; horizon {flow.horizon} steps either way"
    )


@claim("C5", "clipping keeps gradients from exploding", TRUE)
def clipping() -> str:
    """Take a network whose gradient grows, and clip it in the four ways."""
    from recur.gradients import clip_by_global_norm

    torch.manual_seed(0)
    net = layer("rnn", 2 * gaussian(64), 0.01)
    net(torch.randn(STEPS, 4, 1, dtype=torch.float64))[0][-1].sum().backward()
    before = clip_by_global_norm(net.named_parameters(), 1.0)
    after = float(torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in net.parameters()])))
    assert before > 1e3
    assert abs(after - 1) < 1e-9
    return f"global norm {before:.1e} before, {after:.3f} after; the direction is that of the exploding part"


@claim("C6", "skip connections help against vanishing gradients", CONDITIONAL)
def skip_connections() -> str:
    """Take eight layers with and without: between layers they do, along time they do not."""
    last, first = [], []
    for residual in (False, True):
        torch.manual_seed(0)
        net = recur.RNN(32, 32, 8, residual=residual, dtype=torch.float64)
        gradient = flow_of(net, steps=20, size=32).layers[0].hidden_gradient
        last.append(float(gradient[-1]))
        first.append(float(gradient[0]))
    assert last[1] > 30 * last[0]
    assert first[1] < 3 * first[0]
    return (
        "|dL/dh| in the lowest of 8 layers, without and with residual=True: "
        f"at the last step {last[0]:.1e}, {last[1]:.1e}; "
        f"at the first of 20 {first[0]:.1e}, {first[1]:.1e}: they lead through the layers, not through time"
    )


@claim("B2", "with truncated BPTT nothing longer than the cut can be learned", CONDITIONAL)
def truncation() -> str:
    """The gradient ends at the cut; the carried state does not."""
    torch.manual_seed(0)
    net = layer("rnn", orthogonal(32), 0.05)
    x = torch.randn(STEPS, 1, 1, dtype=torch.float64, requires_grad=True)
    _first, state = net(x[:80])
    carried = state.map(lambda value: value.detach())
    net(x[80:], carried)[0][-1].sum().backward()
    reached = int((x.grad.flatten() != 0).sum())
    seen = net(x[80:])[0][-1] - net(x[80:], carried)[0][-1]
    assert reached == 20
    assert float(seen.detach().norm()) > 1e-3
    return (
        f"cut at 20: the gradient reaches {reached} of {STEPS} steps, and yet the output depends on the 80 before "
        f"through the carried state (it changes by {float(seen.detach().norm()):.2f} without them)"
    )


# --- LSTM ---


def lstm(forget: float, inputs: float = 0.0, size: int = 32) -> recur.LSTM:
    """Return an LSTM whose forget and input gates stand at sigmoid(`forget`), sigmoid(`inputs`), whatever it reads."""
    torch.manual_seed(0)
    net = recur.LSTM(1, size, dtype=torch.float64)
    with torch.no_grad():
        net.bias_ih_l0.zero_()
        net.bias_hh_l0.zero_()
        net.bias_ih_l0[size : 2 * size] = forget
        net.bias_ih_l0[:size] = inputs
    return net


@claim("E3", "the LSTM's update is additive, so its gradient does not decay exponentially", CONDITIONAL)
def additive() -> str:
    """It decays like the product of the forget gates."""
    half, open_ = flow_of(lstm(0.0)), flow_of(lstm(10.0))
    a, b = float(half.lyapunov[0]), float(open_.lyapunov[0])
    assert a < -0.4
    assert b > 0
    return (
        f"forget gate about 1/2, torch.nn's start: {a:+.3f} nats per step, most of ln 1/2 = {math.log(0.5):.3f}; "
        f"forget bias 10: {b:+.3f}, the path by way of h adds to it"
    )


@claim("E4", "with f = 1 and i = 0 the cell's gradient is carried unchanged", TRUE)
def highway() -> str:
    """Shut the input gate and open the forget gate for good."""
    flow = flow_of(lstm(40.0, -40.0), steps=1000)
    c = flow.cell_gradient["c"]
    change = float(abs(c[:-1] / c[-1] - 1).max())
    assert change < 1e-6
    return f"over 1000 steps |dL/dc_t| changes by a factor 1 ± {change:.0e}"


@claim("A5", "the LSTM solves vanishing and exploding gradients", WRONG)
def not_solved() -> str:
    """At torch's start it vanishes, and with large weights it explodes."""
    start = flow_of(lstm(0.0), 200)
    wild = lstm(5.0)
    with torch.no_grad():
        wild.weight_hh_l0.mul_(20)
    grown = flow_of(wild, 200)
    assert start.horizon < 50
    assert rate(grown) > 0.05
    return (
        f"torch.nn's start: {rate(start):+.3f} nats per step, {start.horizon} steps; "
        f"recurrent weights times 20, forget bias 5: {rate(grown):+.3f}"
    )


@claim("D5", "the LSTM does not guarantee it, but trains more easily", TRUE)
def eased() -> str:
    """The horizon at forget bias 0, 1, 3, 5 beside a simple network's."""
    torch.manual_seed(0)
    plain = flow_of(recur.RNN(1, 32, dtype=torch.float64), 1000).horizon
    horizons = [flow_of(lstm(bias), 1000).horizon for bias in (0.0, 1.0, 2.0, 3.0)]
    assert horizons[0] <= plain + 1
    assert plain < horizons[1] < horizons[2] < horizons[3]
    return (
        f"horizon: simple network {plain} steps; LSTM of forget bias 0, as torch.nn starts, 1, 2, 3: "
        f"{', '.join(map(str, horizons))}: it is the open gate that helps, not the LSTM as such"
    )


@claim("E5", "an LSTM has three gates more than a simple network, and so more parameters", CONDITIONAL)
def parameters() -> str:
    """Count them."""
    counts = [sum(p.numel() for p in kind(100, 128).parameters()) for kind in (recur.RNN, recur.LSTM)]
    assert counts[1] == 4 * counts[0]
    return (
        f"input 100, 128 units: {counts[0]:,} and {counts[1]:,}, four times as many: the candidate is one of the four"
    )


@claim("A6", "a memory that only adds carries everything", TRUE)
def adder() -> str:
    """The first rung of the ladder: C_t = C_(t-1) + new."""
    torch.manual_seed(0)
    net = recur.Recurrent("adder", 1, 32, dtype=torch.float64)
    with torch.no_grad():
        net.weight_hh_l0.zero_()
    flow = flow_of(net, 1000)
    size = float(net(torch.ones(1000, 1, 1, dtype=torch.float64))[0][-1].detach().abs().max())
    assert abs(rate(flow)) < 1e-12
    return f"U = 0: {rate(flow):+.1e} nats per step over 1000; and h grows without bound, here to {size:.0f}"


def main(keys: list[str]) -> None:
    """Measure and print the claims named, or all."""
    if unknown := set(keys) - {one.key for one in CLAIMS}:
        sys.exit(f"there is no claim {min(unknown)}; there are {', '.join(one.key for one in CLAIMS)}")
    for one in CLAIMS:
        if not keys or one.key in keys:
            print(f"{one.key}  {one.says}\n    {one.verdict}: {one.measure()}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
