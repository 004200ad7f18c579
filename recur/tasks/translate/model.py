"""The translator's objective, and its translations."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recur.data.batches import PairBatch, PairBatches
from recur.data.sequences import Sequences
from recur.models.decoder import forcing_rate
from recur.models.seq2seq import EncoderDecoder
from recur.tasks.decoding import GREEDY, Decoding
from recur.tasks.progress import Progress
from recur.tasks.training import Objective
from recur.tasks.translate.options import TranslateOptions
from recur.tasks.writing import shifted, write

# a translation has at most so many subwords, for each of the source and besides
LONGER, LONGEST_MORE = 2, 10
# of the schedule inverse-sigmoid, in hundredths of the training: half way down after about 30 of them
SIGMOID = 12.0


class TranslateObjective(Objective):
    """Cross entropy at the real tokens of the targets, the tokens before given.

    Args:
        model: what is trained.
        options: label smoothing and teacher forcing.
        steps: of the whole training, over which a schedule runs.
    """

    monitor = "loss"

    def __init__(self, model: EncoderDecoder, options: TranslateOptions, steps: int) -> None:
        self.model: EncoderDecoder = model
        self.options, self.steps, self.step = options, steps, 0

    def measure(self, batch: PairBatch) -> tuple[Mapping[str, Tensor], int]:
        """Return the mean loss, cross entropy (nats) and accuracy of a batch's target tokens, and their number."""
        training = self.model.training
        forcing = self.forcing if training else 1.0
        self.step += training
        inputs = (batch.source, batch.source_lengths, shifted(batch.target), batch.target_lengths)
        truth = batch.target[batch.target != 0]
        smoothing = self.options.label_smoothing
        found = self.model.loss(self.model.states(*inputs, forcing=forcing), truth, smoothing)
        figures = {"loss": found.loss}
        if smoothing:
            figures["cross entropy"] = found.cross_entropy
        return figures | {"token accuracy": found.right}, len(truth)

    @property
    def forcing(self) -> float:
        """The probability of reading the true token at the step under way."""
        last, done = self.options.teacher_forcing, self.step / max(1, self.steps)
        match self.options.teacher_forcing_schedule:
            case "constant":
                return last
            case "linear":
                return 1 - (1 - last) * done
            case "exponential":
                return float(last**done)
            case "inverse-sigmoid":
                return last + (1 - last) * forcing_rate(round(100 * done), "inverse-sigmoid", SIGMOID)

    def probe(self, batch: PairBatch, rows: int) -> tuple[Any, Callable[[Any], Tensor]]:
        """Return the first rows of a batch, and their cross entropy."""
        source, lengths, target, target_lengths = (part[:rows] for part in batch[:4])
        source, target = source[:, : int(lengths.max())], target[:, : int(target_lengths.max())]
        inputs = (source, lengths, shifted(target), target_lengths)
        return inputs, lambda scores: F.cross_entropy(scores[target != 0], target[target != 0])

    def state_dict(self) -> dict[str, Any]:
        """Return how many steps were made."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Carry on from what `state_dict` returned."""
        self.step = state["step"]


@dataclass(frozen=True)
class Written:
    """A translation in ids, without <s> and </s>."""

    ids: list[int]
    log_probability: float
    """In nats, that of the end included."""
    finished: bool
    """Whether it came to its end before the longest length."""


@torch.no_grad()
def translate(
    model: EncoderDecoder,
    sources: Sequences,
    search: Decoding = GREEDY,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
    name: str = "translating",
) -> list[Written]:
    """Translate many sources, those of like length together, in evaluation mode.

    Args:
        model: the network.
        sources: ids, </s> behind each.
        search: greedy, or a beam.
        batch_size: sources at a time.
        progress: shows how far it is and the time left.
        name: of this work, for the progress.

    Returns:
        The translations, in the order of the sources.
    """
    written: list[Written | None] = [None] * len(sources)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    empty = Sequences.of([] for _ in range(len(sources)))
    batches = PairBatches(sources, empty, batch_size, seed=0, shuffle=False)
    for batch in progress.over(batches, name) if progress else batches:
        lengths = batch.source_lengths.to(device)
        state = model.start(batch.source.to(device), lengths)
        found = write(model, state, lengths * LONGER + LONGEST_MORE, search)
        for row, one in zip(batch.index.tolist(), found, strict=True):
            written[row] = Written(one.tokens, one.log_probability, one.finished)
    model.train(training)
    return [one for one in written if one is not None]


@torch.no_grad()
def cross_entropy(
    model: EncoderDecoder, sources: Sequences, targets: Sequences, batch_size: int
) -> tuple[float, float]:
    """Return the mean cross entropy of the targets' tokens in nats, and the share of them scored highest."""
    entropy = right = count = 0.0
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    for batch in PairBatches(sources, targets, batch_size, seed=0, shuffle=False):
        batch = PairBatch(*(part.to(device) for part in batch))
        inputs = (batch.source, batch.source_lengths, shifted(batch.target), batch.target_lengths)
        truth = batch.target[batch.target != 0]
        found = model.loss(model.states(*inputs), truth)
        entropy += len(truth) * float(found.cross_entropy)
        right += len(truth) * float(found.right)
        count += len(truth)
    model.train(training)
    return entropy / count, right / count


def perplexity(entropy: float) -> float:
    """Return exp of a cross entropy in nats, 1e304 at most."""
    return math.exp(min(entropy, 700.0))
