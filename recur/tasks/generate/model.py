"""The language model in its run: what it is trained by, and how a text is scored."""

import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from recur.data.stream import StreamFile, StreamWindows, Window
from recur.models.language import LanguageModel
from recur.tasks.generate.ngrams import KneserNey
from recur.tasks.training import Objective

# tokens of a block, by whose means the interval of a loss is reckoned
BLOCK = 500
# rows longer than this are read side by side
ROW = 1_000_000
ROWS = 64
# tokens that an n-gram model reads at a time
READ = 200 * BLOCK
EXCERPT = 2000
WORST = 30

Losses = NDArray[np.float32]


class LanguageObjective(Objective):
    """Cross entropy of the next token; the state is carried from window to window, the gradient is not.

    Args:
        model: what is trained.
        activation: weight of the outputs' mean square after dropout, and
        change: of that of their change from step to step, in what is lowered and not in what is reported
            (Merity et al. 2017, arXiv:1708.02182, section 4.3).
    """

    monitor = "loss"

    def __init__(self, model: LanguageModel, activation: float = 0.0, change: float = 0.0) -> None:
        self.model: LanguageModel = model
        self.activation, self.change = activation, change
        self._state: Any = None

    def begin(self, part: Literal["train", "validation"]) -> None:
        """Forget the state: a text begins."""
        self._state = None

    def measure(self, batch: Window) -> tuple[Mapping[str, Tensor], int]:
        """Return the mean loss of a window, in nats, and its tokens."""
        read = self.model(batch.inputs, self._state)
        self._state = pytree.tree_map(lambda value: value.detach(), read.state)
        loss = self.model.loss(read.hidden, batch.targets)
        if self.model.training and (self.activation or self.change):
            added = self.activation * read.hidden.square().mean()
            if batch.inputs.shape[1] > 1:
                added = added + self.change * (read.output[:, 1:] - read.output[:, :-1]).square().mean()
            # the loss that is reported is that of the tokens alone
            loss = loss + (added - added.detach())
        return {"loss": loss}, batch.targets.numel()

    def probe(self, batch: Window, rows: int) -> tuple[Any, Callable[[Any], Tensor]]:
        """Return a window of the first rows, and the loss of its last token: how far back that looks."""
        last = batch.targets[:rows, -1:]
        return (batch.inputs[:rows],), lambda read: self.model.loss(read.hidden[:, -1:], last)

    def state_dict(self) -> dict[str, Any]:
        """Return the carried state, layer by layer."""
        if self._state is None:
            return {}
        leaves, layout = pytree.tree_flatten(self._state)
        return {"leaves": leaves, "layout": pytree.treespec_dumps(layout)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Carry on from there."""
        self._state = None
        if state:
            self._state = pytree.tree_unflatten(state["leaves"], pytree.treespec_loads(state["layout"]))


@dataclass
class Surprise:
    """How surprising the tokens of a text were, gathered in a stream.

    Args:
        size: V.
    """

    size: int
    blocks: list[float] = field(default_factory=list)
    """Mean losses of blocks of `BLOCK` tokens, shorter ones at the end of a row aside."""
    excerpt: list[float] = field(default_factory=list)
    """Of the first tokens, one by one."""
    worst: list[tuple[float, int]] = field(default_factory=list)
    """A heap of the largest losses and their places."""
    total: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        self.by_token = np.zeros(self.size)
        self.tokens = np.zeros(self.size, dtype=np.int64)

    def add(self, losses: NDArray[np.floating], targets: NDArray[np.integer], first: int) -> None:
        """Take in some tokens: losses in nats and ids [n], and the place of the first in the text."""
        self.total += float(losses.sum(dtype=np.float64))
        self.count += len(losses)
        if not len(losses):
            return
        if len(losses) >= BLOCK - 1:
            self.blocks.append(float(losses.mean(dtype=np.float64)))
        self.by_token += np.bincount(targets, losses, self.size)
        self.tokens += np.bincount(targets, minlength=self.size)
        if first == len(self.excerpt) + 1 and first <= EXCERPT:
            self.excerpt += losses[: EXCERPT - len(self.excerpt)].tolist()
        for place in np.argsort(-losses, kind="stable")[:WORST].tolist():
            entry = (float(losses[place]), first + place)
            if len(self.worst) < WORST:
                heapq.heappush(self.worst, entry)
            elif entry > self.worst[0]:
                heapq.heapreplace(self.worst, entry)
            else:
                break

    def scores(self, characters: int) -> "Scores":
        """Return the figures, of a text of so many characters."""
        loss = self.total / self.count
        half = math.inf
        if len(self.blocks) > 1:
            half = 1.96 * float(np.std(self.blocks, ddof=1)) / math.sqrt(len(self.blocks))
        interval = (_exp(loss - half), _exp(loss + half)) if math.isfinite(half) else None
        bits = loss / math.log(2)
        return Scores(_exp(loss), interval, loss, bits, bits * self.count / characters, self.count, characters)


@dataclass(frozen=True)
class Scores:
    """How well a text was foretold."""

    perplexity: float
    """e to the loss."""
    interval: tuple[float, float] | None
    """95% interval of the perplexity, from the spread of the loss over blocks of 500 tokens; None of a short text."""
    loss: float
    """Mean of -log(probability of each token but the first), in nats."""
    bits_per_token: float
    bits_per_character: float
    """All bits over all characters, blanks and line ends included."""
    tokens: int
    """That were foretold."""
    characters: int
    notes: tuple[str, ...] = ()


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


@torch.no_grad()
def surprise(model: LanguageModel, stream: StreamFile, seen: Callable[[float], None] = lambda share: None) -> Surprise:
    """Read a text once, from a state of zeros, and gather how surprising each token was.

    A text of more than a million tokens is read in up to 64 rows of at least so many, each from a state of zeros.

    Args:
        model: what reads it.
        stream: the text.
        seen: is told the share that was read.
    """
    training, device = model.training, model.bias.device
    model.eval()
    rows = max(1, min(ROWS, len(stream) // ROW))
    windows, state, found = (
        StreamWindows(stream, rows, BLOCK, batch_first=True),
        None,
        Surprise(model.config.vocabulary_size),
    )
    try:
        for number, window in enumerate(windows):
            read = model(window.inputs.to(device), state)
            state = read.state
            losses = model.losses(read.hidden, window.targets.to(device)).cpu().numpy()
            for row in range(rows):
                found.add(losses[row], window.targets[row].numpy(), row * windows.row + number * BLOCK + 1)
            seen((number + 1) / len(windows))
    finally:
        model.train(training)
    return found


def surprise_of(model: KneserNey, stream: StreamFile) -> Surprise:
    """Gather the same of an n-gram model, to which id 0 does not exist."""
    found = Surprise(model.size + 1)
    for start in range(0, len(stream), READ):
        behind = max(0, start - model.order + 1)
        ids = stream.values[behind : start + READ].astype(np.int64)
        losses = model.losses(ids - 1)[start - behind :]
        ids = ids[start - behind :]
        for place in range(0, len(losses), BLOCK):
            part = slice(place, place + BLOCK)
            first = start + place
            if not first:
                part = slice(1, BLOCK)  # the first token of all is not foretold
            found.add(losses[part], ids[part], max(1, first))
    return found
