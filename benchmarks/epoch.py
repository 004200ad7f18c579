"""What batches by length save: a training epoch of a classifier against the same network in torch.nn, padded.

    python benchmarks/epoch.py reviews.csv --text text --label label

Both train on the same rows, batch by batch in turn: recur on rows padded to the longest of their batch, with `lengths`;
torch.nn on rows padded to --max-length. Before anything is timed, both must agree on rows that are as long as that.
"""

import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import run
from torch import Tensor, nn
from torch.nn import functional as F

from recur.data import LengthBatches, Tokenizer, index_tokens, read_table
from recur.models.classifier import Classifier, ClassifierConfig


class Padded(nn.Module):
    """The same classifier, written with torch.nn."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        kind = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[config.cell]
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_size, padding_idx=0)
        self.recurrent = kind(
            config.embedding_size,
            config.hidden_size,
            config.layers,
            batch_first=True,
            bidirectional=config.bidirectional,
        )
        self.scores = nn.Linear(2 * config.hidden_size * config.directions, config.classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits [B, C] of tokens [B, T]."""
        output = self.recurrent(self.embedding(tokens))[0]
        valid = (torch.arange(tokens.shape[1]) < lengths[:, None])[..., None]
        mean = (output * valid).sum(1) / lengths[:, None]
        largest = output.masked_fill(~valid, -torch.inf).amax(1)
        return self.scores(torch.cat([mean, largest], dim=-1))


def main(
    file: Path,
    *,
    text: str = "text",
    label: str = "label",
    cell: str = "lstm",
    hidden_size: int = 128,
    layers: int = 1,
    bidirectional: Annotated[bool, "both directions"] = True,
    vocabulary: int = 20_000,
    max_length: int = 400,
    batch_size: int = 64,
    batches: int = 60,
    rounds: int = 3,
    threads: int = 2,
) -> None:
    """Time training steps on both sides and print their ratio."""
    torch.set_num_threads(threads)
    rows = list(read_table(file, [text, label]))
    tokenize = Tokenizer("words")
    words, sequences = index_tokens((tokenize(row[text]) for row in rows), size=vocabulary)
    names = sorted({row[label] for row in rows})
    labels = [names.index(row[label]) for row in rows]
    sequences = sequences.truncate(max_length)
    config = ClassifierConfig(
        len(words), len(names), cell, layers, hidden_size, bidirectional, embedding_size=100, pooling="concat"
    )
    ours, theirs = Classifier(config), Padded(config)
    # the network has no "last" in its pooling on either side
    width = config.hidden_size * config.directions
    theirs.embedding.load_state_dict({"weight": ours.state_dict()["embedding.word.weight"]})
    theirs.recurrent.load_state_dict(ours.recurrent.state_dict())
    with torch.no_grad():
        ours.scores.weight[:, :width] = 0
        theirs.scores.weight.copy_(ours.scores.weight[:, width:])
        theirs.scores.bias.copy_(ours.scores.bias)

    loader = LengthBatches(sequences, labels, batch_size, seed=1)
    sample = list(islice(loader, batches))
    long = next((batch for batch in loader if int(batch.lengths.min()) == max_length), None)
    if long is not None:
        with torch.no_grad():
            difference = (ours(long.tokens, long.lengths) - theirs(long.tokens, long.lengths)).abs().max()
        assert difference < 1e-4, f"the two networks differ by {difference}"
        print(f"agree on rows of {max_length} tokens: largest difference {difference:.1e}")

    optimizers = {net: torch.optim.Adam(net.parameters(), fused=True) for net in (ours, theirs)}

    def step(net: nn.Module, tokens: Tensor, lengths: Tensor, target: Tensor) -> float:
        start = time.perf_counter()
        loss = F.cross_entropy(net(tokens, lengths), target)
        optimizers[net].zero_grad()
        loss.backward()
        optimizers[net].step()
        return time.perf_counter() - start

    totals = []
    for number in range(rounds + 1):
        seconds = {ours: 0.0, theirs: 0.0}
        for index, batch in enumerate(sample if number else sample[:3]):
            wide = F.pad(batch.tokens, (0, max_length - batch.tokens.shape[1]))
            turns = [(ours, batch.tokens), (theirs, wide)]
            for net, tokens in turns if index % 2 else reversed(turns):
                seconds[net] += step(net, tokens, batch.lengths.clamp(min=1), batch.labels)
        if number:  # the first round warms up
            totals.append((seconds[ours], seconds[theirs]))
    ratios = [a / b for a, b in totals]
    mine, other = (statistics.median(column) / batches * len(loader) for column in zip(*totals, strict=True))
    print(
        f"{cell} {layers}x{hidden_size}{' both directions' if bidirectional else ''}, batch {batch_size}, "
        f"{threads} threads, padding {loader.padding_share:.1%}: an epoch of {len(rows):,} texts\n"
        f"  recur, by length        {mine:7.1f} s\n"
        f"  torch.nn, padded to {max_length} {other:7.1f} s\n"
        f"  ratio {statistics.median(ratios):.2f}  (rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)})"
    )


if __name__ == "__main__":
    run(main)
