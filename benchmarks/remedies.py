"""What each remedy does: to the gradient 200 steps back at the start, and to learning a symbol seen 100 steps before.

A second table says what skip connections do to the gradient of the lowest layer of a stack.

    python benchmarks/remedies.py

The first step shows one of 4 symbols, the others one of 4 that say nothing; after the last, the network is to name the
first. Every network is trained on the same rows, one after the other, with clipping by global norm at 1 unless it says
otherwise, until it names 99% of 500 others or --steps are over, and then scored on 2000 more, where 25% is chance: at
two learning rates, of which the better is shown.
"""

import time
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from cyclopts import run
from torch import Tensor, nn

import recur
from recur.gradients import clip_by_global_norm, nonfinite_gradients
from recur.remedies import Remedies

SYMBOLS, HIDDEN, ROWS = 4, 64, 32
# of the gradient of a mean over the rows
BOUND = 1e-4
LEARNING_RATES = (0.01, 0.001)


@dataclass(frozen=True)
class Case:
    """A network: its cell and remedies, the size of its orthogonal matrix, whether the global norm is clipped."""

    name: str
    cell: str
    remedies: Remedies
    gain: float = 1.0
    clip: bool = True

    def layer(self) -> nn.Module:
        """Return the recurrent layers, drawn anew."""
        layer = self.remedies.layer(self.cell, 2 * SYMBOLS, HIDDEN, 1)
        if self.gain != 1:
            recur.orthogonal_(layer, self.gain)
        return layer


def cases(lag: int) -> list[Case]:
    """Return the networks that are compared."""
    orthogonal, identity = Remedies(initialisation="orthogonal"), Remedies(initialisation="identity")
    irnn = Case("rnn-relu, identity", "rnn-relu", identity)
    steep = Case("rnn, orthogonal, gain 2", "rnn", Remedies(), gain=2)
    by_step = Remedies(clip_step=BOUND)
    return [
        Case("rnn", "rnn", Remedies()),
        Case("rnn, orthogonal", "rnn", orthogonal),
        Case("rnn, zoneout 0.1", "rnn", Remedies(zoneout=0.1)),
        Case("rnn-layernorm", "rnn-layernorm", Remedies()),
        Case("rnn-layernorm, orthogonal", "rnn-layernorm", orthogonal),
        Case("rnn-relu", "rnn-relu", Remedies()),
        Case("rnn-relu, orthogonal", "rnn-relu", orthogonal),
        irnn,
        replace(irnn, name="rnn-relu, identity, no clipping", clip=False),
        replace(
            irnn, name="rnn-relu, identity, clip-step alone", remedies=replace(identity, clip_step=BOUND), clip=False
        ),
        steep,
        replace(steep, name="rnn, orthogonal, gain 2, no clipping", clip=False),
        replace(steep, name="rnn, orthogonal, gain 2, clip-step alone", remedies=by_step, clip=False),
        Case("lstm", "lstm", Remedies()),
        Case("lstm, orthogonal", "lstm", orthogonal),
        Case("lstm, forget bias 1", "lstm", Remedies(forget_bias=1.0)),
        Case("lstm, forget bias 4", "lstm", Remedies(forget_bias=4.0)),
        Case("lstm, chrono", "lstm", Remedies(chrono=lag)),
        Case("lstm, chrono, inputs too", "lstm", Remedies(chrono=lag, chrono_inputs=True)),
        Case("gru", "gru", Remedies()),
        Case("gru, forget bias 4", "gru", Remedies(forget_bias=4.0)),
    ]


def draw(steps: int, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return inputs [T, B, D] and the class of each row [B]."""
    symbols = torch.randint(SYMBOLS, 2 * SYMBOLS, (steps, rows), generator=generator)
    symbols[0] = torch.randint(SYMBOLS, (rows,), generator=generator)
    return nn.functional.one_hot(symbols, 2 * SYMBOLS).float(), symbols[0]


def carried(case: Case, steps: int) -> float:
    """Return the norm of the gradient of the states before the first step, that of the last output being 1 in a row."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layer, x = case.layer().double(), draw(steps, ROWS, generator)[0].double()
    cell = layer.cell
    states = [x.new_zeros(1, ROWS, HIDDEN).requires_grad_() for _ in cell.state_names]
    if isinstance(layer, recur.Recurrent):
        output = layer(x, recur.State(**dict(zip(cell.state_names, states, strict=True))))[0]
    else:
        output = layer(x, tuple(states) if len(states) > 1 else states[0])[0]
    direction = nn.functional.normalize(torch.randn(ROWS, HIDDEN, generator=generator).double(), dim=1)
    gradients = torch.autograd.grad((output[-1] * direction).sum(), states)
    return float(torch.cat(gradients, -1).norm(dim=-1).mean())


class Learned(NamedTuple):
    """How learning went: rates on validation and on new rows, and the step at which it was solved, if it was."""

    validation: float
    test: float
    solved: int | None


def learn(case: Case, learning_rate: float, lag: int, steps: int, seed: int) -> Learned:
    """Train a network."""
    torch.manual_seed(seed)
    layer, scores = case.layer(), nn.Linear(HIDDEN, SYMBOLS)
    model = nn.ModuleList([layer, scores])
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    train, other = (torch.Generator().manual_seed(s) for s in (seed, 10_000 + seed))
    validation = draw(lag, 500, other)

    def rate(x: Tensor, labels: Tensor) -> float:
        model.eval()
        with torch.no_grad():
            found = float((scores(layer(x)[0][-1]).argmax(1) == labels).float().mean())
        model.train()
        return found

    test, solved = draw(lag, 2000, other), None
    for step in range(1, steps + 1):
        x, labels = draw(lag, ROWS, train)
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores(layer(x)[0][-1]), labels).backward()
        named = list(model.named_parameters())
        if nonfinite_gradients(named):
            continue
        if case.clip:
            clip_by_global_norm(named, 1.0)
        optimizer.step()
        if step % 50 == 0 and rate(*validation) >= 0.99:
            solved = step
            break
    return Learned(rate(*validation), rate(*test), solved)


def reached(cell: str, layers: int, residual: bool) -> float:
    """Return the norm of the gradient of the lowest layer's input matrix in a stack, of the last output alone."""
    torch.manual_seed(1)
    layer = Remedies(residual=residual).layer(cell, HIDDEN, HIDDEN, layers)
    output = layer(torch.randn(20, ROWS, HIDDEN))[0]
    weight = dict(layer.named_parameters())["weight_ih_l0"]
    (gradient,) = torch.autograd.grad((output[-1] * torch.randn(ROWS, HIDDEN)).sum(), weight)
    return float(gradient.norm())


def main(*, lag: int = 100, steps: int = 500, seeds: int = 1, gradient_steps: int = 200, only: str = "") -> None:
    """Print two tables: of the remedies along time, and of skip connections between layers.

    Args:
        lag: steps of a row.
        steps: most training steps of a network.
        seeds: how many times each network is trained.
        gradient_steps: how far back the gradient is measured.
        only: a part of the names of the networks to be run.
    """
    torch.set_num_threads(1)
    start = time.perf_counter()
    print(f"| network | gradient {gradient_steps} steps back | learning rate | rate on new rows | solved after |")
    print("|---|---|---|---|---|")
    for case in cases(lag):
        if only and only not in case.name:
            continue
        tried = {rate: [learn(case, rate, lag, steps, seed) for seed in range(1, seeds + 1)] for rate in LEARNING_RATES}
        # the better one by the validation rows, and by how soon it was there
        best = max(tried, key=lambda rate: [sum(one.validation - (one.solved or steps) / 1e6 for one in tried[rate])])
        rates = ", ".join(f"{100 * one.test:.0f}%" for one in tried[best])
        solved = ", ".join(f"{one.solved or '-'}" for one in tried[best])
        print(f"| {case.name} | {carried(case, gradient_steps):.1e} | {best} | {rates} | {solved} |", flush=True)
    print("\n| cell, layers | gradient of the lowest layer | with residual |")
    print("|---|---|---|")
    for cell in ("rnn", "lstm", "gru"):
        for layers in (2, 4, 8, 16):
            plain, residual = (reached(cell, layers, given) for given in (False, True))
            print(f"| {cell}, {layers} | {plain:.1e} | {residual:.1e} |")
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    run(main)
