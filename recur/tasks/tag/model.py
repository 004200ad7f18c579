"""The tagger in its training, and what it says of sentences."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recur.data.sequences import Sequences
from recur.models.tagger import Tagger
from recur.tasks.tag.scores import Guesses
from recur.tasks.tag.spans import SpanScheme
from recur.tasks.tag.words import FormTable, TagBatch, TagBatches, Tagged
from recur.tasks.training import Objective


class TagObjective(Objective):
    """The probability of the tags to learn by; accuracy, or F1 where tags mark spans, to choose by.

    Args:
        model: what is trained.
        names: the tags by number.
    """

    def __init__(self, model: Tagger, names: Sequence[str]) -> None:
        self.model: torch.nn.Module = model
        self._scheme = SpanScheme(names) if SpanScheme.is_spans(names) else None
        self.monitor = "f1" if self._scheme else "accuracy"

    def measure(self, batch: TagBatch) -> tuple[Mapping[str, Any], int]:
        """Return the mean loss and accuracy over the words of a batch, and how many words there are."""
        model, lengths = self.model, batch.inputs.lengths
        assert isinstance(model, Tagger)
        scores = model(*batch.inputs)
        figures: dict[str, Any] = {"loss": model.loss(scores, batch.tags, lengths)}
        tags = scores.argmax(-1) if model.training else model.decode(scores.detach(), lengths)[0]
        inside = torch.arange(tags.shape[1]) < lengths[:, None]
        figures["accuracy"] = (tags == batch.tags)[inside].float().mean()
        if self._scheme:
            ends = np.concatenate(([0], np.cumsum(lengths.numpy())))
            parts = (Sequences(part[inside].numpy().astype(np.int32), ends) for part in (tags, batch.tags))
            total = self._scheme.compare(*parts).total
            # means of F1 weighted like this are the F1 of all batches together
            figures["f1"] = (torch.tensor(total.f1), total.predicted + total.true or 1e-9)
        return figures, int(lengths.sum())

    def probe(self, batch: TagBatch, rows: int) -> tuple[Any, Callable[[Tensor], Tensor]]:
        """Return the inputs of a few sentences, and the loss of what the model makes of them."""
        model, few = self.model, batch.first(rows)
        assert isinstance(model, Tagger)
        return tuple(few.inputs), lambda scores: model.loss(scores, few.tags, few.inputs.lengths)


@torch.no_grad()
def guess(model: Tagger, data: Tagged, table: FormTable, batch_size: int = 128) -> Guesses:
    """Return the tags of all words, in evaluation mode."""
    total, starts = len(data.sentences.values), data.sentences.offsets
    guesses = Guesses(np.empty(total, np.int32), np.empty(total, np.float32), np.zeros(total, np.float32))
    training = model.training
    model.eval()
    for batch in TagBatches(data, table, batch_size, shuffle=False):
        lengths = batch.inputs.lengths
        tags, probabilities = model.decode(model(*batch.inputs), lengths)
        inside = torch.arange(tags.shape[1]) < lengths[:, None]
        rows, rests = batch.index.numpy(), np.cumsum(lengths.numpy()) - lengths.numpy()
        place = np.repeat(starts[rows] - rests, lengths.numpy()) + np.arange(int(lengths.sum()))
        known = batch.tags < model.config.tags
        own = probabilities.gather(2, batch.tags.clamp(max=model.config.tags - 1)[..., None])[..., 0] * known
        guesses.tags[place] = tags[inside].numpy()
        guesses.probability[place] = probabilities.gather(2, tags[..., None])[..., 0][inside].numpy()
        guesses.own[place] = own[inside].numpy()
    model.train(training)
    return guesses
