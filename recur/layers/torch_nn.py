"""RNN, LSTM and GRU that stand in for torch.nn's: change the import, keep everything else.

They are torch.nn's classes - constructor, parameters, state_dict, errors and isinstance are torch's own - and differ in
the call: `lengths=` gives each row its own length, without sorting or packing; a PackedSequence runs on the dense
kernel where that is the faster one.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from recur.cells import GRU as GRUEquation
from recur.cells import LSTM as LSTMEquation
from recur.cells import LSTMP, Elman
from recur.cells.cell import Cell, State
from recur.errors import InputError
from recur.layers.stack import check_finite, check_lengths, run_stack
from recur.scan import Weights, check_backend, compiles


class _Lengths(nn.RNNBase):
    """What RNN, LSTM and GRU add to torch.nn's classes."""

    # class attributes, so that `replace` can turn a module of torch.nn's into one of these in place
    recurrent_dropout: float = 0.0
    backend: str = "auto"

    def __init__(self, *args: Any, recurrent_dropout: float = 0.0, backend: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= recurrent_dropout < 1:
            raise InputError(f"`recurrent_dropout` must be in [0, 1), got {recurrent_dropout}")
        check_backend(backend)
        # an attribute only where it differs: a default layer's state is exactly torch.nn's
        if recurrent_dropout:
            self.recurrent_dropout = recurrent_dropout
        if backend != "auto":
            self.backend = backend

    @property
    def cell(self) -> Cell:
        """The equation that this layer runs."""
        match self.mode:
            case "LSTM":
                return LSTMP() if self.proj_size else LSTMEquation()
            case "GRU":
                return GRUEquation()
            case _:
                return Elman(str(self.nonlinearity))

    def weights(self) -> list[list[Weights]]:
        """Return the weights of each layer and direction."""
        directions = 2 if self.bidirectional else 1
        names = [
            "ih",
            "hh",
            *(["bias_ih", "bias_hh"] if self.bias else []),
            *(["hr"] if self.proj_size else []),
        ]
        all_weights = [Weights(**dict(zip(names, given, strict=True))) for given in self.all_weights]
        return [all_weights[i : i + directions] for i in range(0, len(all_weights), directions)]

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Any:
        """Run the layer.

        Args:
            input: [T, B, D], [B, T, D] with `batch_first`, [T, D] without a batch, or a PackedSequence.
            hx: the initial state, zeros if None; h [layers * directions, B, H], for LSTM a tuple (h, c).
            lengths: valid steps of each row, [B], in 0..T, in any order; padded steps change nothing and give zeros.

        Returns:
            as torch.nn: the outputs of the last layer and the final state. With `lengths` the final state is that
            after each row's own last step, in the backward direction after its first.

        Raises:
            InputError: lengths out of range, given without a batch or with a PackedSequence; NaN in a valid step.
            Others as torch.nn.
        """
        packed = isinstance(input, PackedSequence)
        if lengths is not None and packed:
            raise InputError("`lengths` must not be given with a PackedSequence, which holds its own")
        data = input.data if isinstance(input, PackedSequence) else input
        ours = (
            lengths is not None
            or self.backend == "reference"
            or (self.recurrent_dropout and self.training)
            or compiles(self.all_weights[0][0], data, self.backend)
        )
        if isinstance(input, PackedSequence):
            return self._packed(input, hx) if ours or self._dense_is_faster(input, hx) else super().forward(input, hx)
        if not ours or input.dim() not in (2, 3):
            return super().forward(input, hx)
        if input.dim() == 3:
            if lengths is not None:
                batch, steps = input.shape[:2] if self.batch_first else (input.shape[1], input.shape[0])
                lengths = check_lengths(lengths, batch, steps, input.device)
                check_finite(input if not self.batch_first else input.transpose(0, 1), lengths)
            return self._batch(input, hx, lengths)
        if lengths is not None:
            raise InputError(f"`lengths` needs a batch of rows, got an input of shape {list(input.shape)}")
        return self._unbatched(input, hx)

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

    def _batch(self, input: Tensor, hx: Any, lengths: Tensor | None) -> tuple[Tensor, Any]:
        names = self.cell.state_names
        if hx is None:
            self.check_input(input, None)
            count, batch, size = self.get_expected_hidden_size(input, None)
            hx = [input.new_zeros(count, batch, self.hidden_size if name == "c" else size) for name in names]
        else:
            self.check_forward_args(input, hx, None)
        output, final = run_stack(
            self.cell,
            self.weights(),
            input.transpose(0, 1) if self.batch_first else input,
            State(**dict(zip(names, _states(hx), strict=True))),
            lengths,
            dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            training=self.training,
            backend=self.backend,
        )
        return output.transpose(0, 1) if self.batch_first else output, tuple(final) if len(final) > 1 else final.h


def _states(hx: Any) -> Sequence[Tensor]:
    return (hx,) if isinstance(hx, Tensor) else hx


class RNN(_Lengths, nn.RNN):
    """Elman network, in place of `torch.nn.RNN`; the equation is `recur.cells.Elman`.

    Args:
        input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout, bidirectional, device, dtype:
            as in torch.nn.RNN.
        recurrent_dropout: share of recurrent weights dropped for a sequence in training (DropConnect).
        backend: "auto", "cpu", "torch" or "reference", see `recur.scan.scan`.

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
        backend: "auto", "cpu", "torch" or "reference", see `recur.scan.scan`.

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
        backend: "auto", "cpu", "torch" or "reference", see `recur.scan.scan`.

    Example:
        >>> output, h = GRU(4, 8, batch_first=True)(torch.randn(2, 5, 4), lengths=[5, 3])
        >>> output.shape, h.shape
        (torch.Size([2, 5, 8]), torch.Size([1, 2, 8]))
    """
