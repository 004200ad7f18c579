"""What a step of training costs language models, and what a long context is worth to them.

    python benchmarks/ttt.py TEXT RUN [RUN ...]

RUN are folders of `recur train generate`. Steps of training, without the optimizer, are taken in turn, with one thread,
on the text's first rows, --batch-size of --steps tokens; times are of the processor. TTTLinear must first agree with
its step-by-step form. Then the text is cut into pieces of --context tokens, each read from the start; what its tokens
cost is averaged by their place in the piece.
"""

import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from cyclopts import run
from torch import Tensor
from torch.utils import _pytree as pytree

import recur
from recur.models.language import LanguageModel

BORDERS = (0, 64, 256, 1024)


def main(
    text: Path, /, *runs: Path, batch_size: int = 32, steps: int = 64, context: int = 1024, rounds: int = 20
) -> None:
    """Print two tables.

    Args:
        text: what is read.
        runs: run folders.
        batch_size: rows of a step.
        steps: tokens of a row.
        context: tokens of a piece.
        rounds: steps of training; the median is shown.
    """
    torch.set_num_threads(1)
    loaded: dict[str, Any] = {path.name: recur.load(path) for path in runs}
    models = {name: one.model for name, one in loaded.items()}
    read = text.read_text(encoding="utf-8")
    ids = {name: torch.from_numpy(one.coder.encode(read)) for name, one in loaded.items()}
    for name, model in models.items():
        agree(name, model, ids[name][:200])
    times: dict[str, list[float]] = {name: [] for name in models}
    states = dict.fromkeys(models)
    for _ in range(rounds):
        for name, model in models.items():
            rows = ids[name][: batch_size * (steps + 1)].view(batch_size, -1)
            model.train()
            start = time.process_time()
            states[name] = step(model, rows, states[name])
            times[name].append(time.process_time() - start)
    print(f"{'':20}  parameters  ms a step  tokens a second")
    for name, taken in times.items():
        middle = statistics.median(taken)
        print(
            f"{name:20}  {models[name].parameter_count:10,}  {1e3 * middle:9.0f}  {batch_size * steps / middle:15,.0f}"
        )
    borders = [*(border for border in BORDERS if border < context), context]
    heads = [f"{low}-{high}" for low, high in itertools.pairwise(borders)]
    print(f"\n{'nats at':20}" + "".join(f"{head:>11}" for head in heads))
    for name, model in models.items():
        pieces = ids[name][: len(ids[name]) // context * context].view(-1, context)
        losses = by_place(model, pieces)
        parts = [losses[max(0, low - 1) : high - 1].mean() for low, high in itertools.pairwise(borders)]
        print(f"{name:20}" + "".join(f"{part:11.4f}" for part in parts))


def agree(name: str, model: LanguageModel, ids: Tensor) -> None:
    """Stop unless TTTLinear's two forms tell the text alike."""
    found = []
    for backend in ("dual", "reference"):
        for layer in model.layers:
            if isinstance(layer, recur.TTTLinear):
                layer.backend = backend
        with torch.no_grad():
            found.append(model.eval()(ids[None]).hidden)
    for layer in model.layers:
        if isinstance(layer, recur.TTTLinear):
            layer.backend = "dual"
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3, msg=lambda text: f"{name}: {text}")


def step(model: LanguageModel, rows: Tensor, state: object) -> object:
    """Go forward and back through a window, and return the state after it."""
    read = model(rows[:, :-1], state)
    torch.autograd.backward(model.loss(read.hidden, rows[:, 1:]))
    model.zero_grad()
    return pytree.tree_map(lambda value: value.detach(), read.state)


@torch.no_grad()
def by_place(model: LanguageModel, pieces: Tensor) -> Tensor:
    """Return the mean loss of each token but the first of the pieces, in nats, [context - 1]."""
    model.eval()
    parts = [model.losses(model(part[:, :-1]).hidden, part[:, 1:]) for part in pieces.split(16)]
    return torch.cat(parts).mean(0)


if __name__ == "__main__":
    run(main)
