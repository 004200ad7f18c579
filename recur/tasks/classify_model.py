"""The classifier in its run: the objective of its training, its predictions, and the way back from the run folder."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recur.data.batches import Batch, LengthBatches
from recur.data.sequences import Sequences
from recur.data.text import Tokenizer
from recur.data.vocabulary import Vocabulary
from recur.errors import RecurError, RunError
from recur.flow.measure import watch_gradients
from recur.flow.result import LayerWatch
from recur.layers.evidence import Evidence
from recur.models.classifier import Classifier, ClassifierConfig
from recur.tasks.baselines import Part
from recur.tasks.classify_data import Encoder
from recur.tasks.classify_options import ClassifyOptions
from recur.tasks.run import load_model, read_config

Probabilities = NDArray[np.float32]
COUNTED_IDS = 1 << 22
WATCHED_ROWS = 8  # so many rows of a batch tell where its gradients go


class ClassifyObjective:
    """Cross entropy to learn by, accuracy to choose by."""

    monitor = "accuracy"

    def __init__(self, model: Classifier) -> None:
        self.model: torch.nn.Module = model

    def measure(self, batch: Batch) -> tuple[Mapping[str, Tensor], int]:
        """Return the mean loss and accuracy of a batch, and its rows."""
        # a training text must not meet itself among the counts of `evidence`
        scores = self.model(batch.tokens, batch.lengths, batch.labels if self.model.training else None)
        right = (scores.argmax(dim=1) == batch.labels).float().mean()
        return {"loss": F.cross_entropy(scores, batch.labels), "accuracy": right}, len(batch.labels)

    def look(self, batch: Batch) -> Sequence[LayerWatch]:
        """Return what is seen of the gradients on a few rows of a batch, without dropout."""
        rows = slice(0, WATCHED_ROWS)
        tokens, lengths, labels = batch.tokens[rows], batch.lengths[rows], batch.labels[rows]
        training = self.model.training
        self.model.eval()
        try:
            return watch_gradients(
                self.model,
                (tokens[:, : int(lengths.max())], lengths),
                lambda scores: F.cross_entropy(scores, labels),
            )
        finally:
            self.model.train(training)


def network_config(options: ClassifyOptions, vocabulary_size: int, classes: int, width: int | None) -> ClassifierConfig:
    """Return the network that the options of one member ask for; `width` is that of the given vectors, if any."""
    shared = {name: getattr(options, name) for name in ClassifierConfig.__dataclass_fields__ if hasattr(options, name)}
    given = {"vocabulary_size": vocabulary_size, "classes": classes, "cell": options.cell[0]}
    return ClassifierConfig(**shared | given | ({} if width is None else {"embedding_size": width}))


def count_evidence(evidence: Evidence, part: Part) -> None:
    """Count the training part, about so many ids at a time that they fit into memory with all that is made of them."""
    ends = part.sequences.offsets
    bounds = np.searchsorted(ends, np.arange(0, ends[-1] + COUNTED_IDS, COUNTED_IDS)).clip(max=len(part.labels))
    for first, last in itertools.pairwise(np.unique(np.append(bounds, len(part.labels)))):
        texts = part.sequences.take(np.arange(first, last))
        counted = (texts.values, texts.lengths, part.labels[first:last])
        evidence.count(*(torch.from_numpy(numbers.astype(np.int64)) for numbers in counted))


@torch.no_grad()
def probabilities(model: Classifier, sequences: Sequences, batch_size: int = 128) -> Probabilities:
    """Return the probability of each class for each sequence [n, C], in evaluation mode."""
    result = np.empty((len(sequences), model.config.classes), dtype=np.float32)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    for batch in LengthBatches(sequences, None, batch_size, seed=0, shuffle=False):
        scores = model(batch.tokens.to(device), batch.lengths.to(device))
        result[batch.index.numpy()] = scores.double().softmax(dim=1).float().cpu().numpy()
    model.train(training)
    return result


class Trained(NamedTuple):
    """A classifier read from its run folder."""

    config: dict[str, Any]
    labels: list[str]
    encoder: Encoder
    model: Classifier


def describe(encoder: Encoder, network: ClassifierConfig, labels: list[str]) -> dict[str, Any]:
    """Return what `read_trained` needs, for config.json."""
    return {
        "labels": labels,
        "network": asdict(network),
        "tokenizer": asdict(encoder.tokenizer),
        "max_length": encoder.max_length,
        "keep": encoder.keep,
        "vocabulary": encoder.vocabulary.words,
    }


def read_trained(folder: Path) -> Trained:
    """Read a classifier from its run folder, wherever that lies now.

    Raises:
        RunError: the folder is not that of a finished classifier, or a file in it is damaged; the message names it.
    """
    config = read_config(folder)
    try:
        encoder = Encoder(
            Tokenizer(**config["tokenizer"]), Vocabulary(config["vocabulary"]), config["max_length"], config["keep"]
        )
        labels = list(config["labels"])
        model = Classifier(ClassifierConfig(**config["network"]))
    except (KeyError, TypeError, RecurError) as error:
        raise RunError(f"{folder / 'config.json'} is not that of a classifier, or damaged: {error!r}") from error
    load_model(folder, model)
    model.eval()
    return Trained(config, labels, encoder, model)
