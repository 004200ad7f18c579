"""RNN, LSTM and GRU that stand in for torch.nn's: change the import, keep everything else.

They are torch.nn's classes - constructor, parameters, state_dict, errors and isinstance are torch's own - and differ in
the call: `lengths=` gives each row its own length, without sorting or packing, `padding=` says on which side the rest
is, `resets=` where rows begin anew; a PackedSequence runs on the dense kernel where that is the faster one. `trace`
returns states and gates of every step, `stream` takes one step at a time.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from recur.cells import GRU as GRUEquation
from recur.cells import LSTM as LSTMEquation
from recur.cells import LSTMP, Elman
from recur.cells.cell import Cell, State
from recur.errors import InputError
from recur.layers.plan import check_checkpoint
from recur.layers.stack import Trace, check_finite, check_lengths, check_resets, observer, padded_left, run_stack
from recur.scan import Weights, check_backend, compiled
from recur.stream import Stream

# by torch's name of the mode; made once, so that torch.compile meets the same objects again
_EQUATIONS: dict[str, Cell] = {
    "LSTM": LSTMEquation(),
    "LSTMP": LSTMP(),
    "GRU": GRUEquation(),
    "RNN_TANH": Elman("tanh"),
    "RNN_RELU": Elman("relu"),
}


def equation_of(layer: nn.RNNBase) -> Cell:
    """Return the equation that an RNN, LSTM or GRU runs, torch.nn's or recur's."""
    return _EQUATIONS["LSTMP" if layer.mode == "LSTM" and layer.proj_size else layer.mode]


def weights_of(layer: nn.RNNBase) -> list[list[Weights]]:
    """Return the weights of each layer and direction of an RNN, LSTM or GRU, torch.nn's or recur's."""
    directions = 2 if layer.bidirectional else 1
    found = []
    for names in layer._all_weights:
        ih, hh, *others = [_weight(layer, name) for name in names]
        bias_ih, bias_hh = others[:2] if layer.bias else (None, None)
        found.append(Weights(ih, hh, bias_ih, bias_hh, None, others[-1] if layer.proj_size else None))
    return [found[i : i + directions] for i in range(0, len(found), directions)]


def _weight(layer: nn.RNNBase, name: str) -> Tensor:
    # what torch.nn.Module does by itself, in a fraction of the time
    value: Tensor | None = layer._parameters.get(name)
    return getattr(layer, name) if value is None else value


class _Lengths(nn.RNNBase):
    """What RNN, LSTM and GRU add to torch.nn's classes."""

    # class attributes, so that `replace` can turn a module of torch.nn's into one of these in place
    recurrent_dropout: float = 0.0
    residual: bool = False
    backend: str = "auto"
    checkpoint: int | str | None = None

    def __init__(
        self,
        *args: Any,
        recurrent_dropout: float = 0.0,
        residual: bool = False,
        backend: str = "auto",
        checkpoint: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= recurrent_dropout < 1:
            raise InputError(f"`recurrent_dropout` must be in [0, 1), got {recurrent_dropout}")
        check_backend(backend)
        # an attribute only where it differs: a default layer's state is exactly torch.nn's
        if recurrent_dropout:
            self.recurrent_dropout = recurrent_dropout
        if residual:
            self.residual = residual
        if backend != "auto":
            self.backend = backend
        if check_checkpoint(checkpoint) is not None:
            self.checkpoint = checkpoint

    @property
    def cell(self) -> Cell:
        """The equation that this layer runs."""
        return equation_of(self)

    def weights(self) -> list[list[Weights]]:
        """Return the weights of each layer and direction."""
        return weights_of(self)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        padding: Literal["right", "left"] = "right",
        resets: Tensor | None = None,
    ) -> Any:
        """Run the layer.

        Args:
            input: [T, B, D], [B, T, D] with `batch_first`, [T, D] without a batch, or a PackedSequence.
            hx: the initial state, zeros if None; h [layers * directions, B, H], for LSTM a tuple (h, c).
            lengths: valid steps of each row, [B], in 0..T, in any order; padded steps change nothing and give zeros.
            padding: where the padding stands, after each row's valid steps ("right") or before them ("left").
            resets: bool, [T, B] or [B, T] as the input: steps before which a row begins anew, from a state of zeros.
                The backward direction, too, keeps the steps from one such place to the next to themselves.

        Returns:
            as torch.nn: the outputs of the last layer and the final state. With `lengths` the final state is that
            after each row's own last step, in the backward direction after its first.

        Raises:
            InputError: lengths out of range; lengths or resets given without a batch or with a PackedSequence; NaN in a
            valid step. Others as torch.nn.
        """
        named = "lengths" if lengths is not None else "resets" if resets is not None else None
        if named and isinstance(input, PackedSequence):
            raise InputError(f"`{named}` must not be given with a PackedSequence, which holds its own")
        left = padded_left(padding)
        data = input.data if isinstance(input, PackedSequence) else input
        # looked up once: layers and directions are alike
        backend = compiled(_weight(self, self._all_weights[0][0]), data, self.backend)
        ours = (
            backend is not None
            or named is not None
            or self.backend == "reference"
            or self.residual
            or self.checkpoint is not None
            or (self.recurrent_dropout and self.training)
            or observer() is not None
        )
        if isinstance(input, PackedSequence):
            return self._packed(input, hx) if ours or self._dense_is_faster(input, hx) else super().forward(input, hx)
        if not ours or input.dim() not in (2, 3):
            return super().forward(input, hx)
        if input.dim() == 3:
            return self._batch(input, hx, lengths, left, resets, backend)
        if named:
            raise InputError(f"`{named}` needs a batch of rows, got an input of shape {list(input.shape)}")
        return self._unbatched(input, hx)

    def trace(
        self,
        input: Tensor,
        hx: Any = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        padding: Literal["right", "left"] = "right",
        resets: Tensor | None = None,
    ) -> Trace:
        """Run the layer and return the states and gates of every step, layer and direction as well.

        Arguments and errors are those of a call, with a batch of rows [T, B, D] or [B, T, D]; shapes stand at
        `recur.layers.Trace`.

        >>> trace = LSTM(4, 8, num_layers=2, batch_first=True).trace(torch.randn(3, 5, 4))
        >>> trace.states[1].c.shape, trace.gates[0]["f"].shape
        (torch.Size([3, 5, 8]), torch.Size([3, 5, 8]))
        """
        if not isinstance(input, Tensor) or input.dim() != 3:
            found = f"shape {list(input.shape)}" if isinstance(input, Tensor) else type(input).__name__
            layout = "[B, T, D]" if self.batch_first else "[T, B, D]"
            raise InputError(f"`input` must be a batch of rows {layout}, got {found}")
        result = self._stack(input, hx, lengths, padded_left(padding), resets, trace=True)
        return result.transposed() if self.batch_first else result

    def stream(self, batch: int = 1) -> Stream:
        """Return a stream that takes one step at a time for `batch` rows and carries their state, see `recur.Stream`.

        Raises:
            InputError: the layer is bidirectional, or `batch` is not above 0.
        """
        return Stream(self, batch)

    def _dense_is_faster(self, input: PackedSequence, hx: Any) -> bool:
        # torch's LSTM kernel for packed input takes one step at a time on CPU
        steps, batch = len(input.batch_sizes), int(input.batch_sizes[0])
        fits = hx is None or (isinstance(hx, tuple | list) and len(hx) == 2 and all(v.dim() == 3 for v in hx))
        return (
            self.mode == "LSTM"
            and not self.proj_size
            and input.data.device.type == "cpu"
            and len(input.data) > steps * batch / 2
            and fits
        )

    def _packed(self, input: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        # padded rows and their states stand in the caller's order, not in the packed one
        dense, lengths = pad_packed_sequence(input, self.batch_first)
        output, final = self._batch(dense, hx, lengths.to(dense.device))
        if input.sorted_indices is not None:
            output = output.index_select(0 if self.batch_first else 1, input.sorted_indices)
            lengths = lengths[input.sorted_indices.cpu()]
        data = pack_padded_sequence(output, lengths, self.batch_first).data
        return PackedSequence(data, input.batch_sizes, input.sorted_indices, input.unsorted_indices), final

    def _unbatched(self, input: Tensor, hx: Any) -> tuple[Tensor, Any]:
        rows = 0 if self.batch_first else 1
        states = None if hx is None else [value.unsqueeze(1) for value in _states(hx)]
        output, final = self._batch(
            input.unsqueeze(rows), states and (tuple(states) if len(states) > 1 else states[0]), None
        )
        final = tuple(value.squeeze(1) for value in final) if isinstance(final, tuple) else final.squeeze(1)
        return output.squeeze(rows), final

    def _batch(
        self,
        input: Tensor,
        hx: Any,
        lengths: Tensor | Sequence[int] | None,
        left: bool = False,
        resets: Tensor | None = None,
        backend: str | None = None,
    ) -> tuple[Tensor, Any]:
        output, final, *_ = self._stack(input, hx, lengths, left, resets, backend, trace=False)
        return output.transpose(0, 1) if self.batch_first else output, tuple(final) if len(final) > 1 else final.h

    def _stack(
        self,
        input: Tensor,
        hx: Any,
        lengths: Tensor | Sequence[int] | None,
        left: bool,
        resets: Tensor | None,
        backend: str | None = None,
        *,
        trace: bool,
    ) -> Trace:
        names = self.cell.state_names
        if hx is None:
            self.check_input(input, None)
            count, batch, size = self.get_expected_hidden_size(input, None)
            hx = [input.new_zeros(count, batch, self.hidden_size if name == "c" else size) for name in names]
        else:
            self.check_forward_args(input, hx, None)
        if self.batch_first:
            input = input.transpose(0, 1)
        if lengths is not None:
            lengths = check_lengths(lengths, input.shape[1], input.shape[0], input.device)
            check_finite(input, lengths, left)
        return run_stack(
            self.cell,
            self.weights(),
            input,
            State(**dict(zip(names, _states(hx), strict=True))),
            lengths,
            left=left,
            resets=None if resets is None else check_resets(resets, input, self.batch_first),
            dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            residual=self.residual,
            training=self.training,
            backend=backend or self.backend,
            trace=trace,
            checkpoint=self.checkpoint,
        )


def _states(hx: Any) -> Sequence[Tensor]:
    return (hx,) if isinstance(hx, Tensor) else hx


class RNN(_Lengths, nn.RNN):
    """Elman network, in place of `torch.nn.RNN`; the equation is `recur.cells.Elman`.

    Args:
        input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout, bidirectional, device, dtype:
            as in torch.nn.RNN.
        recurrent_dropout: share of recurrent weights dropped for a sequence in training (DropConnect).
        residual: whether each layer but the first adds its input to its outputs, see `recur.Recurrent`.
        backend: "auto", "cpu", "torch" or "reference", see `recur.scan.scan`.
        checkpoint: what is kept for the backward, see `Recurrent`.

    Example:
        >>> output, h = RNN(4, 8, batch_first=True)(torch.randn(2, 5, 4), lengths=[5, 3])
        >>> output.shape, h.shape
        (torch.Size([2, 5, 8]), torch.Size([1, 2, 8]))
    """


class LSTM(_Lengths, nn.LSTM):
    """Long short-term memory, in place of `torch.nn.LSTM`; the equation is `recur.cells.LSTM`.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype:
            as in torch.nn.LSTM.
        recurrent_dropout: share of recurrent weights dropped for a sequence in training (DropConnect).
        residual: whether each layer but the first adds its input to its outputs, see `recur.Recurrent`.
        backend: "auto", "cpu", "torch" or "reference", see `recur.scan.scan`.
        checkpoint: what is kept for the backward, see `Recurrent`.

    Example:
        >>> output, (h, c) = LSTM(4, 8, batch_first=True)(torch.randn(2, 5, 4), lengths=[5, 3])
        >>> output.shape, c.shape
        (torch.Size([2, 5, 8]), torch.Size([1, 2, 8]))
    """


class GRU(_Lengths, nn.GRU):
    """Gated recurrent unit, in place of `torch.nn.GRU`; the equation is `recur.cells.GRU("after", "old")`.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype:
            as in torch.nn.GRU.
        recurrent_dropout: share of recurrent weights dropped for a sequence in training (DropConnect).
        residual: whether each layer but the first adds its input to its outputs, see `recur.Recurrent`.
        backend: "auto", "cpu", "torch" or "reference", see `recur.scan.scan`.
        checkpoint: what is kept for the backward, see `Recurrent`.

    Example:
        >>> output, h = GRU(4, 8, batch_first=True)(torch.randn(2, 5, 4), lengths=[5, 3])
        >>> output.shape, h.shape
        (torch.Size([2, 5, 8]), torch.Size([1, 2, 8]))
    """
