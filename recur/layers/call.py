"""One way to call every recurrent layer: with the state by name, whatever the layer's own call takes and returns."""

from collections.abc import Sequence

from torch import Tensor

from recur.cells.cell import State
from recur.layers.recurrent import Output, Recurrent
from recur.layers.torch_nn import GRU, LSTM, RNN


def run(
    layer: Recurrent | RNN | LSTM | GRU,
    input: Tensor,
    state: State | None = None,
    *,
    lengths: Tensor | Sequence[int] | None = None,
) -> Output:
    """Call `layer` with a `State` and return its outputs and its final state as one.

    Args:
        layer: RNN, LSTM, GRU or Recurrent.
        input: as the layer takes it.
        state: the initial state, each [layers * directions, B, H]; zeros if None.
        lengths: valid steps of each row, [B].

    >>> run(LSTM(4, 8), torch.randn(5, 3, 4)).state.c.shape
    torch.Size([1, 3, 8])
    """
    if isinstance(layer, Recurrent):
        return layer(input, state, lengths=lengths)  # type: ignore[no-any-return]
    names = layer.cell.state_names
    hx = None if state is None else tuple(getattr(state, name) for name in names)
    output, final = layer(input, hx[0] if hx and len(names) == 1 else hx, lengths=lengths)
    return Output(output, State(**dict(zip(names, final if len(names) > 1 else (final,), strict=True))))
