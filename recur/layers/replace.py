"""Turn torch.nn's recurrent modules inside a model into recur's, in place."""

from torch import nn

from recur.layers.step import GRUCell, LSTMCell, RNNCell
from recur.layers.torch_nn import GRU, LSTM, RNN

STAND_INS: dict[type[nn.Module], type[nn.Module]] = {
    nn.RNN: RNN,
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.RNNCell: RNNCell,
    nn.LSTMCell: LSTMCell,
    nn.GRUCell: GRUCell,
}


def replace(model: nn.Module) -> nn.Module:
    """Turn every RNN, LSTM, GRU and their cells from torch.nn in `model`, itself included, into recur's.

    Modules change their class and nothing else: parameters, hooks, device, mode and every reference to them stay, so an
    optimiser made before goes on working. Subclasses of torch.nn's classes are left alone.

    Returns:
        `model`.

    Example:
        >>> type(replace(nn.Sequential(nn.LSTM(4, 8)))[0]).__module__
        'recur.layers.torch_nn'
    """
    for module in model.modules():
        stand_in = STAND_INS.get(type(module))
        if stand_in is not None:
            module.__class__ = stand_in
    return model
