"""The recurrent memory network: a story is a memory of sentences, and every hop reads it with a recurrence."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recur.layers import GRU, LSTM, RNN, Recurrent
from recur.layers.pooling import pool
from recur.models.config import Config


@dataclass(frozen=True)
class MemoryConfig(Config):
    """All that a `MemoryNetwork` is built from; `dataclasses.asdict` and `MemoryConfig(**...)` are its JSON form.

    Raises:
        InputError: a value out of its range.
    """

    vocabulary_size: int
    """V, ids 0 (padding) and 1 (unknown) included."""
    classes: int
    """C, answers that there are; at least 2."""
    cell: str = "gru"
    """A name in `recur.cells.CELLS`."""
    hops: int = 2
    """K, how often the memory is read, each time with the question that the hop before has made; 0 for no memory: the
    cell reads the words of story and question one after the other."""
    layers: int = 1
    """Recurrent layers of each hop, one on top of the other."""
    hidden_size: int = 64
    """H, of the words' vectors, of the sentences and of the question."""
    dropout: float = 0.0
    """Share of the inputs of every hop, and of what is scored, zeroed in training."""

    def __post_init__(self) -> None:
        self.require_whole(vocabulary_size=2, classes=2, hops=0, layers=1, hidden_size=1)
        self.require_shares("dropout")
        self.check_remedies(self.layers)


class MemoryNetwork(nn.Module):
    r"""Answer a question about a story.

    A sentence of the words :math:`w_1 \dots w_J` is one slot of the memory, the sum of the words' vectors weighted by
    their place, and so is the question, the first query of every slot:

    .. math::
        x_t &= \sum_j l_j \odot A_{w_j}, \qquad l_{jk} = (1 - j/J) - (k/H)(1 - 2j/J) \\
        q^1_t &= u \\
        \overrightarrow{h}^k_t &= \mathrm{cell}([x_t \odot q^k_t;\, x_t;\, q^k_t],\, \overrightarrow{h}^k_{t-1}) \\
        q^{k+1}_t &= \overrightarrow{h}^k_t + \overleftarrow{h}^k_t \\
        p &= \mathrm{softmax}(W \overrightarrow{h}^K_T + b)

    Every hop carries the question through the memory in both directions and changes it where a sentence has to do with
    it: at each slot it becomes the question that is left to be asked there. The last hop reads forward alone.

    Source: position encoding, memory and hops Sukhbaatar et al. 2015, arXiv:1503.08895, section 4.1; hops that are
    recurrences Seo et al. 2017, arXiv:1606.04582, there with one gate for all units of a slot. The start is ours, see
    `attend_`.

    Args:
        config: the sizes and options.

    Raises:
        InputError: an unknown cell.

    >>> model = MemoryNetwork(MemoryConfig(vocabulary_size=20, classes=4))
    >>> sentences = torch.tensor([[2, 3, 4], [5, 3, 6], [7, 8, 0]])
    >>> story, question = torch.tensor([[0, 1], [1, 0]]), torch.tensor([2, 2])
    >>> model(sentences, story, question, lengths=torch.tensor([2, 1])).shape
    torch.Size([2, 4])
    """

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__()
        self.config, size = config, config.hidden_size
        self.embedding = nn.Embedding(config.vocabulary_size, size, padding_idx=0)
        self.hops = nn.ModuleList()
        for hop in range(max(1, config.hops)):
            layer = config.layer(
                config.cell,
                3 * size if config.hops else size,
                size,
                config.layers,
                bidirectional=hop < config.hops - 1,
                batch_first=True,
            )
            if config.hops:
                attend_(layer, size)
            self.hops.append(layer)
        self.dropout = nn.Dropout(config.dropout)
        self.scores = nn.Linear(size, config.classes)

    def forward(self, sentences: Tensor, story: Tensor, question: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits `[B, C]`.

        Args:
            sentences: ids of the words of all different sentences and questions, int64 `[N, J]`, 0 for padding.
            story: of each row the numbers of its sentences, oldest first, int64 `[B, S]` in 0..N-1.
            question: number of the sentence that is asked, int64 `[B]`.
            lengths: sentences of each story, int64 `[B]` in 0..S.
        """
        if self.config.hops:
            slots, query, lengths = self._memory(sentences, story, question, lengths)
            for hop in self.hops:
                query = self._asked(hop(self._read(slots, query), lengths=lengths)[0])
        else:
            words, lengths = _one_text(sentences, story, question, lengths)
            query, _ = self.hops[0](self.dropout(self.embedding(words)), lengths=lengths)
        scores: Tensor = self.scores(self.dropout(pool(query, lengths, "last")))
        return scores

    @torch.no_grad()
    def reads(self, sentences: Tensor, story: Tensor, question: Tensor, lengths: Tensor) -> Tensor:
        """Return what each pass takes of each sentence, `[B, P, S]`, shares of 1; the arguments are those of a call.

        The passes are hop 1 forward, hop 1 backward, hop 2 forward and so on, 2 K - 1 of them (none without memory). A
        sentence's share is how far it moves the state, `|h_t - h_{t-1}|` summed over the units, of what all move it.
        """
        found = []
        if self.config.hops:
            slots, query, lengths = self._memory(sentences, story, question, lengths)
            for hop in self.hops:
                trace = cast(Recurrent, hop).trace(self._read(slots, query), lengths=lengths)
                query = self._asked(trace.output)
                directions = trace.output.shape[-1] // self.config.hidden_size
                for reverse, state in enumerate(trace.states[-directions:]):
                    before = F.pad(state.h[:, 1:], (0, 0, 0, 1)) if reverse else F.pad(state.h[:, :-1], (0, 0, 1, 0))
                    inside = (torch.arange(slots.shape[1], device=slots.device) < lengths[:, None]).to(slots.dtype)
                    moved = (state.h - before).abs().sum(-1) * inside
                    found.append(moved / moved.sum(1, keepdim=True).clamp(min=1e-9))
        return torch.stack(found, dim=1) if found else self.scores.weight.new_zeros(len(story), 0, story.shape[1])

    def _memory(
        self, sentences: Tensor, story: Tensor, question: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return slots and first queries `[B, S, H]`, and the slots of each row: an empty story is one empty slot."""
        vectors = self.encode(sentences)
        story = F.pad(story, (0, int(not story.shape[1])))
        inside = torch.arange(story.shape[1], device=story.device) < lengths[:, None]
        slots = vectors[story] * inside[..., None]
        return slots, vectors[question][:, None].expand_as(slots), lengths.clamp(min=1)

    def encode(self, sentences: Tensor) -> Tensor:
        """Return a vector for each sentence: ids `[N, J]`, 0 for padding -> `[N, H]`."""
        size, device = self.config.hidden_size, sentences.device
        words = (sentences != 0).sum(1).clamp(min=1)[:, None, None]
        place = torch.arange(1, sentences.shape[1] + 1, device=device)[:, None] / words
        unit = torch.arange(1, size + 1, device=device) / size
        vectors: Tensor = self.embedding(sentences)
        return (vectors * ((1 - place) - unit * (1 - 2 * place))).sum(1)

    def _read(self, slots: Tensor, query: Tensor) -> Tensor:
        """Return what a hop reads at each slot, `[B, S, 3 H]`."""
        slots, query = self.dropout(slots), self.dropout(query)
        return torch.cat([slots * query, slots, query], dim=-1)

    def _asked(self, output: Tensor) -> Tensor:
        """Return the queries that a hop has made, both directions added."""
        return output.reshape(*output.shape[:-1], -1, self.config.hidden_size).sum(-2)

    @property
    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


@torch.no_grad()
def attend_(layer: Recurrent | RNN | LSTM | GRU, size: int) -> None:
    """Let a recurrent layer begin as attention, its first inputs being the product of sentence and question.

    The gate that keeps the state starts as their scaled dot product, so that the state changes where they have much in
    common, and nothing else sees the product at the start.

    Args:
        layer: whose first layer reads `[.., 3 size]`; left alone but for the product if its cell has no such gate.
        size: of the product.
    """
    keep = layer.cell.keep
    for name, weight in layer.named_parameters():
        if name.startswith("weight_ih_l0"):
            weight[:, :size] = 0
            if keep:
                rows = weight.chunk(len(layer.cell.gate_names))[layer.cell.gate_names.index(keep.lstrip("-"))]
                rows.zero_()
                rows[:, :size] = (1 if keep.startswith("-") else -1) / size**0.5


def _one_text(sentences: Tensor, story: Tensor, question: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the words of each story and its question one after the other, `[B, T]`, and how many they are."""
    inside = torch.arange(story.shape[1], device=story.device) < lengths[:, None]
    told = sentences[story] * inside[..., None]
    words = torch.cat([told.flatten(1), sentences[question]], dim=1)
    # stable: the words keep their order, the padding goes to the end
    words = words.gather(1, (words == 0).to(torch.uint8).argsort(dim=1, stable=True))
    count = (words != 0).sum(1)
    return words[:, : max(1, int(count.max()))], count
