"""One vector in, a row out: given at the first step only, or as the state that the network's own outputs go on from."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recur.cells.cell import State
from recur.errors import InputError
from recur.models.decoder import BEGIN, Bridge, Decoder, DecoderConfig, DecoderState, Read

MODES = ["feedback", "first"]


@dataclass(frozen=True, kw_only=True)
class OneToManyConfig(DecoderConfig):
    """All that a `OneToMany` is built from; `dataclasses.asdict` and `OneToManyConfig(**...)` are its JSON form.

    Raises:
        InputError: a value out of its range.
    """

    input_size: int
    """I, the width of the vector."""
    mode: str = "feedback"
    """"feedback": the vector makes the first state, and each step reads the output before it. "first": the first step
    reads the vector, the others zeros."""
    attention: str = "none"
    """How places that are given beside the vector are looked at, see `DecoderConfig`; "none" where there are none."""
    places_size: int = 0
    """K, the width of these places."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_whole(input_size=1)
        self.require_choice("mode", MODES)
        if (self.attention != "none") != (self.places_size > 0):
            raise InputError(
                f"attention must be 'none' to go from one vector alone, and places_size above 0 to look at places, got "
                f"{self.attention!r} and {self.places_size}"
            )
        if self.places_size and self.mode == "first":
            raise InputError("places_size needs mode 'feedback', got mode 'first'; leave it out")
        if self.tied and self.mode == "first":
            raise InputError("tied needs mode 'feedback', which reads tokens, got mode 'first'; leave it out")


class OneToMany(nn.Module):
    r"""Write a row from one vector, such as a caption from an image's.

    With mode "first" the vector is read once and nothing after it: x_1 = v, x_t = 0 for t > 1, h_0 = 0. With "feedback"
    it makes the first state of every layer, h_0 = tanh(W v + b), and step t reads the output of step t - 1, as in
    Vinyals et al. 2014, arXiv:1411.4555; the first one reads <s>, or zeros where numbers are written.

    With "feedback" `start`, `step` and `select` are what `recur.models.decoding` asks of a model that writes.

    Args:
        config: the sizes and options.

    Raises:
        InputError: an unknown cell.

    >>> model = OneToMany(OneToManyConfig(input_size=3, vocabulary_size=2, outputs="numbers", mode="first"))
    >>> model(torch.randn(4, 3), steps=6).shape
    torch.Size([4, 6, 2])
    """

    def __init__(self, config: OneToManyConfig) -> None:
        super().__init__()
        self.config = config
        first = config.mode == "first"
        self.decoder = Decoder(config, config.places_size, config.input_size if first else None)
        layer = self.decoder.recurrent
        self.bridge = None if first else Bridge(dict.fromkeys(layer.cell.state_names, config.input_size), layer)

    def forward(
        self,
        vector: Tensor,
        given: Tensor | None = None,
        *,
        steps: int | None = None,
        forcing: float = 1.0,
        places: Tensor | None = None,
    ) -> Tensor:
        """Return the logits, or the numbers, of every step, [B, U, V].

        Args:
            vector: [B, I].
            given: with "feedback", what is read: tokens, int64 [B, U], the first one <s>, or numbers [B, U, V], the
                first ones zero; None to read what the model itself writes.
            steps: U, needed where nothing is given.
            forcing: probability of reading what is given rather than the model's own, see `Decoder.read`.
            places: what attention looks at, [B, S, K].

        Raises:
            InputError: the arguments do not fit each other or the mode.
        """
        return self.scores(self._read(vector, given, steps, forcing, places).readout)

    def scores(self, states: Tensor) -> Tensor:
        """Return the logits [..., V] of states [..., R]."""
        scores: Tensor = self.decoder.scores(states)
        return scores

    def start(self, vector: Tensor, places: Tensor | None = None) -> DecoderState:
        """Return the state that the vectors [B, I] make; with attention to the places [B, S, K].

        Raises:
            InputError: the vectors are of another width, or the mode is "first".
        """
        if self.bridge is None:
            raise InputError("`model` must have mode 'feedback' to write step by step, got mode 'first'; call it")
        size, layers = self._checked(vector), self.config.layers
        names = self.decoder.recurrent.cell.state_names
        wide = vector.expand(layers, len(vector), size)
        return self.decoder.start(self.bridge(State(**dict.fromkeys(names, wide))), places)

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read one token of every row: ids, int64 [N] -> logits of the next [N, V], and the state after."""
        return self.decoder.step(tokens, state)

    def select(self, state: DecoderState, rows: Tensor) -> DecoderState:
        """Return the state of some rows, int64 [M], in that order; a row may be named several times."""
        return state.select(rows)

    def _read(
        self, vector: Tensor, given: Tensor | None, steps: int | None, forcing: float, places: Tensor | None
    ) -> Read:
        if (given is None) == (steps is None):
            raise InputError("one of `given` and `steps` must be there, got both" if steps else "`steps` must be given")
        if steps is not None and steps < 1:
            raise InputError(f"`steps` must be at least 1, got {steps}")
        if self.bridge is not None:
            if given is None:
                return self.decoder.read(self._nothing(vector, steps or 1), self.start(vector, places), forcing=0.0)
            return self.decoder.read(given, self.start(vector, places), forcing=forcing)
        if steps is None:
            raise InputError("`given` must be None in mode 'first', which reads nothing after its vector; give `steps`")
        size = self._checked(vector)
        inputs = torch.cat([vector[:, None], vector.new_zeros(len(vector), steps - 1, size)], 1)
        layer = self.decoder.recurrent
        zero = vector.new_zeros(self.config.layers, len(vector), self.config.hidden_size)
        return self.decoder.advance(inputs, DecoderState(State(**dict.fromkeys(layer.cell.state_names, zero))))

    def _nothing(self, vector: Tensor, steps: int) -> Tensor:
        """Return a row of which only the first step is read."""
        rows = len(vector)
        if self.config.outputs == "numbers":
            return vector.new_zeros(rows, steps, self.config.vocabulary_size)
        return torch.full((rows, steps), BEGIN, device=vector.device)

    def _checked(self, vector: Tensor) -> int:
        size = self.config.input_size
        if vector.dim() != 2 or vector.shape[1] != size:
            raise InputError(f"`vector` must be [B, I] with I = {size}, got {list(vector.shape)}")
        return size
