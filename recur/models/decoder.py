"""The decoder: recurrent layers over what has been written so far, attention to a memory, scores of the next token."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recur.cells.cell import State
from recur.errors import InputError, nearest
from recur.layers.attention import ATTENTIONS, Attention, Memory
from recur.layers.call import run
from recur.layers.embedding import TokenEmbedding
from recur.layers.recurrent import Recurrent
from recur.layers.torch_nn import GRU, LSTM, RNN
from recur.models.config import Config

PAD, UNKNOWN, BEGIN, END = range(4)
OUTPUTS = ["tokens", "numbers"]
SCHEDULES = ["linear", "exponential", "inverse-sigmoid"]


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Config):
    """All that a `Decoder` is built from.

    Raises:
        InputError: a value out of its range.
    """

    vocabulary_size: int
    """V of what is written: at least 4 tokens, of which ids 0..3 are padding, unknown, <s> and </s>; or V numbers."""
    outputs: str = "tokens"
    """"tokens", or "numbers", V of them at each step, which are read as they are."""
    cell: str = "lstm"
    """A name in `recur.cells.CELLS`."""
    layers: int = 1
    """Recurrent layers, one on top of the other."""
    hidden_size: int = 256
    """H, units of each layer and direction."""
    embedding_size: int = 256
    """D, the width of the tokens' vectors."""
    attention: str = "multiplicative"
    """"additive", "multiplicative" or "dot", see `recur.Attention`; "none" for what fits into the state alone."""
    input_feeding: bool = False
    """Read what the step before has seen beside its token (Luong et al. 2015, section 3.3): step by step, slower."""
    tied: bool = False
    """Score a token by its own vector (Press and Wolf 2017, arXiv:1608.05859)."""
    embedding_dropout: float = 0.0
    """Share of the vectors' features zeroed in training, the same ones all along a row."""
    dropout: float = 0.0
    """Share of the outputs zeroed in training after every layer, before the scores too."""

    def __post_init__(self) -> None:
        self.require_choice("outputs", OUTPUTS)
        least = {"vocabulary_size": 4 if self.outputs == "tokens" else 1, "layers": 1, "hidden_size": 1}
        self.require_whole(**least, embedding_size=1)
        self.require_shares("embedding_dropout", "dropout")
        self.require_choice("attention", [*ATTENTIONS, "none"])
        if self.input_feeding and self.attention == "none":
            raise InputError("input_feeding needs attention, got attention 'none'; choose one of both")
        if self.tied and self.outputs == "numbers":
            raise InputError("tied needs tokens, which have vectors, got outputs 'numbers'; leave it out")
        self.check_remedies(self.layers)

    @property
    def readout_size(self) -> int:
        """R, the width of what the scores are computed from."""
        return self.embedding_size if self.tied else self.hidden_size


class DecoderState(NamedTuple):
    """What a decoder carries from step to step for N rows."""

    recurrent: State
    """Of the recurrent layers, each [layers, N, H]."""
    memory: Memory | None = None
    """What attention looks at."""
    fed: Tensor | None = None
    """The last readout [N, R], of use with `input_feeding`; zeros before the first step."""

    def select(self, rows: Tensor) -> "DecoderState":
        """Return the state of some rows, int64 [M], in that order; a row may be named several times."""
        return DecoderState(
            self.recurrent.map(lambda value: value.index_select(1, rows)),
            None if self.memory is None else self.memory.select(rows),
            None if self.fed is None else self.fed.index_select(0, rows),
        )


class Read(NamedTuple):
    """What a decoder makes of tokens: `readout` [B, U, R], attention's `weights` [B, U, S], and the state after."""

    readout: Tensor
    weights: Tensor | None
    state: DecoderState


class Decoder(nn.Module):
    r"""Score the next token, given those before, a first state and a memory.

    With the layers' output h_t and attention's context c_t (Luong et al. 2015, arXiv:1508.04025, eq. 5 and 6):

    .. math::
        \tilde h_t &= \tanh(W_c [h_t; c_t]) \\
        p(y_{t+1} \mid y_{\le t}) &= \operatorname{softmax}(W_s \tilde h_t + b_s)

    Attention comes after the recurrent layers: where all tokens are given, the layers run over the whole row at once.

    Where numbers are written, the "tokens" below are rows of V numbers, and so are the logits, as they are predicted.

    Args:
        config: sizes and options.
        memory_size: K, the width of the memory; of no effect without attention.
        input_size: the width of what `advance` reads where it is not what was written.

    Raises:
        InputError: an unknown cell.
    """

    def __init__(self, config: DecoderConfig, memory_size: int = 0, input_size: int | None = None) -> None:
        super().__init__()
        self.config = config
        attends = config.attention != "none"
        self.embedding: TokenEmbedding | None = None
        if config.outputs == "tokens" and input_size is None:
            self.embedding = TokenEmbedding(config.vocabulary_size, config.embedding_size)
        written = self.embedding.embedding_size if self.embedding else config.vocabulary_size
        self.recurrent = config.layer(
            config.cell,
            (input_size or written) + (config.readout_size if config.input_feeding else 0),
            config.hidden_size,
            config.layers,
            dropout=config.dropout if config.layers > 1 else 0.0,
            batch_first=True,
        )
        self.attention = Attention(config.hidden_size, memory_size, config.attention) if attends else None
        width = config.hidden_size + (memory_size if attends else 0)
        combines = attends or width != config.readout_size
        self.combine = nn.Linear(width, config.readout_size, bias=False) if combines else None
        self.dropout = nn.Dropout(config.dropout)
        self.scores = nn.Linear(config.readout_size, config.vocabulary_size)
        if config.tied and self.embedding is not None and self.embedding.word is not None:
            self.scores.weight = self.embedding.word.weight

    def start(self, recurrent: State, values: Tensor | None = None, lengths: Tensor | None = None) -> DecoderState:
        """Return the state before the first step.

        Args:
            recurrent: each [layers, B, H].
            values: the memory, [B, S, K]; of no effect without attention.
            lengths: its valid places, int64 [B] in 0..S.

        Raises:
            InputError: there is no memory for the attention.
        """
        if self.attention is None:
            return DecoderState(recurrent)
        if values is None:
            raise InputError("`values` must be given to a decoder with attention, got None")
        fed = recurrent.h.new_zeros(len(values), self.config.readout_size) if self.config.input_feeding else None
        return DecoderState(recurrent, self.attention.memory(values, lengths), fed)

    def read(self, tokens: Tensor, state: DecoderState, lengths: Tensor | None = None, forcing: float = 1.0) -> Read:
        """Read rows of tokens.

        Args:
            tokens: ids, int64 [B, U], or numbers [B, U, V]; the first step of each row is always read.
            state: the state before the first token.
            lengths: valid steps of each row, [B]; what is returned beyond them is of no meaning.
            forcing: probability of reading a given token; else what the model scores highest is read in its place,
                drawn for every row and step (Bengio et al. 2015, arXiv:1506.03099, section 2.4). The draw is
                torch's. Gradients flow through numbers that are read, not through tokens.

        Raises:
            InputError: `forcing` is not in 0..1.
        """
        if not 0 <= forcing <= 1:
            raise InputError(f"`forcing` must be from 0 to 1, got {forcing!r}")
        mask = self._feature_mask(len(tokens))
        if forcing == 1 and not self.config.input_feeding:
            return self.advance(self._embed(tokens, mask), state, lengths)
        given = torch.rand(tokens.shape[:2], device=tokens.device) < forcing
        readouts: list[Tensor] = []
        weights: list[Tensor] = []
        for t in range(tokens.shape[1]):
            now = tokens[:, t]
            own = (~given[:, t]).nonzero().squeeze(1) if t else now[:0]
            if len(own):
                now = now.index_copy(0, own, self._own(readouts[-1][own, 0]))
            readout, weight, state = self.advance(self._embed(now[:, None], mask), state)
            readouts.append(readout)
            weights += [] if weight is None else [weight]
        return Read(torch.cat(readouts, 1), torch.cat(weights, 1) if weights else None, state)

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read one token of every row: ids, int64 [N] -> logits of the next [N, V], and the state after."""
        readout, _, state = self.advance(self._embed(tokens[:, None], None), state)
        return self.scores(readout[:, 0]), state

    def select(self, state: DecoderState, rows: Tensor) -> DecoderState:
        """Return the state of some rows, see `DecoderState.select`."""
        return state.select(rows)

    def advance(self, inputs: Tensor, state: DecoderState, lengths: Tensor | None = None) -> Read:
        """Read vectors [B, U, D] from a state on, U being 1 with input feeding; `lengths` are as for `read`."""
        if state.fed is not None:
            inputs = torch.cat([inputs, state.fed[:, None]], -1)
        output, recurrent = run(self.recurrent, inputs, state.recurrent, lengths=lengths)
        readout, weights = output, None
        if self.attention is not None and state.memory is not None:
            context, weights = self.attention(output, state.memory)
            readout = torch.cat([output, context], -1)
        if self.combine is not None:
            readout = torch.tanh(self.combine(readout))
        readout = self.dropout(readout)
        fed = None if state.fed is None else readout[:, -1]
        return Read(readout, weights, DecoderState(recurrent, state.memory, fed))

    def _embed(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        vectors: Tensor = tokens if self.embedding is None else self.embedding(tokens)
        return vectors if mask is None else vectors * mask

    def _own(self, readout: Tensor) -> Tensor:
        """Return what the decoder would write: tokens [N], or numbers [N, V]."""
        if self.config.outputs == "numbers":
            numbers: Tensor = self.scores(readout)
            return numbers
        with torch.no_grad():
            best: Tensor = self.scores(readout).argmax(-1)
        return best

    def _feature_mask(self, rows: int) -> Tensor | None:
        """Draw the features of tokens' vectors that are dropped all along a row."""
        rate = self.config.embedding_dropout
        if not self.training or not rate or self.embedding is None:
            return None
        return F.dropout(self.scores.weight.new_ones(rows, 1, self.config.embedding_size), rate)


class Bridge(nn.Module):
    r"""Make initial states of vectors: s_0 = tanh(W v + b), a W and a b for each layer and state.

    Args:
        sizes: the width of what each state is made of, by the state's name.
        layer: the layers whose state is made; in one direction.

    Source: Bahdanau et al. 2014, arXiv:1409.0473, appendix A.2.2, for one state.
    """

    def __init__(self, sizes: Mapping[str, int], layer: Recurrent | RNN | LSTM | GRU) -> None:
        super().__init__()
        projected = layer.proj_size or layer.hidden_size
        outputs = {name: projected if name == "h" else layer.hidden_size for name in layer.cell.state_names}
        self.maps = nn.ModuleDict(
            {
                name: nn.ModuleList(nn.Linear(sizes[name], size) for _ in range(layer.num_layers))
                for name, size in outputs.items()
            }
        )

    def forward(self, given: State) -> State:
        """Return the initial states [layers, B, H] made of vectors [layers, B, K]."""
        made = {}
        for name, maps in self.maps.items():
            assert isinstance(maps, nn.ModuleList)
            made[name] = torch.stack([torch.tanh(one(v)) for one, v in zip(maps, getattr(given, name), strict=True)])
        return State(**made)


def forcing_rate(step: int, schedule: str, k: float, floor: float = 0.0) -> float:
    """Return the probability with which a given token is read after `step` steps of training.

    Args:
        step: from 0 up: batches or epochs.
        schedule: "linear", 1 - k i; "exponential", k^i; "inverse-sigmoid", k / (k + exp(i / k)).
        k: above 0; at most 1 for the first two, at least 1 for the last.
        floor: the least value.

    Raises:
        InputError: an argument out of its range.

    Source: Bengio et al. 2015, arXiv:1506.03099, section 2.4.

    >>> [forcing_rate(epoch, "linear", 0.25, floor=0.5) for epoch in range(4)]
    [1.0, 0.75, 0.5, 0.5]
    """
    if schedule not in SCHEDULES:
        hint = nearest(str(schedule), SCHEDULES)
        raise InputError(f"`schedule` must be one of {', '.join(SCHEDULES)}, got {schedule!r}{hint}")
    wanted, fits = ("at least 1", k >= 1) if schedule == "inverse-sigmoid" else ("above 0, at most 1", 0 < k <= 1)
    if not fits:
        raise InputError(f"`k` must be {wanted} for schedule {schedule!r}, got {k!r}")
    if not 0 <= floor <= 1 or step < 0:
        raise InputError(f"`floor` must be from 0 to 1 and `step` from 0 up, got {floor!r} and {step!r}")
    if schedule == "linear":
        rate = 1 - k * step
    elif schedule == "exponential":
        rate = k**step
    else:
        # beyond that exp overflows, and the rate is 0
        rate = k / (k + math.exp(step / k)) if step / k < 700 else 0.0
    return max(floor, float(rate))
