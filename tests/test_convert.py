"""The same function in another convention, Keras's layout, and layers inside nn.Sequential."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import recur
from recur import AllOutputs, InputError, LastOutput, OutputMap, Recurrent, convert, from_keras, to_keras
from recur.cells import GRU, LSTM, Elman, PeepholeLSTM


def close(a, b) -> bool:
    return torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("z", ["old", "new"])
@pytest.mark.parametrize("bias", [False, "one", "two"])
def test_the_sign_of_z_converts_exactly(reset, z, bias):
    layer = Recurrent(GRU(reset, z), 3, 4, 2, bias=bias, bidirectional=True)
    other = convert(layer, GRU(reset, "new" if z == "old" else "old"))
    x = torch.randn(6, 2, 3)
    assert close(layer(x).output, other(x).output)
    assert not torch.equal(layer.weight_ih_l0, other.weight_ih_l0)


def test_everything_but_the_convention_is_kept():
    layer = Recurrent("gru", 3, 4, 2, batch_first=True, dropout=0.2, recurrent_dropout=0.1, backend="reference").eval()
    other = convert(layer, GRU(z="new"))
    for name in ("batch_first", "dropout", "recurrent_dropout", "backend", "training", "num_layers"):
        assert getattr(other, name) == getattr(layer, name)
    with pytest.raises(InputError, match="`cell` must be a cell, such as"):
        convert(layer, GRU)


def test_reset_before_and_after_has_no_equivalent():
    with pytest.raises(InputError, match="agree only for a diagonal U, so no choice of weights"):
        convert(recur.GRU(3, 4), GRU("before"))


def test_an_lstm_becomes_one_with_peepholes_and_not_back():
    layer, x = recur.LSTM(3, 4, bidirectional=True), torch.randn(6, 2, 3)
    other = convert(layer, PeepholeLSTM())
    assert close(layer(x)[0], other(x).output)
    with pytest.raises(InputError, match="are different functions: no weights of one give the other"):
        convert(other, LSTM())
    with pytest.raises(InputError, match="different functions"):
        convert(recur.RNN(3, 4), Elman("relu"))


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru-before", "rnn-sigmoid"])
def test_two_biases_merge_into_one(name):
    layer, x = Recurrent(name, 3, 4, bias="two"), torch.randn(6, 2, 3)
    one = convert(layer, layer.cell, bias="one")
    assert not hasattr(one, "bias_hh_l0")
    assert close(layer(x).output, one(x).output)
    assert close(layer(x).output, convert(one, layer.cell, bias="two")(x).output)


def test_the_bias_inside_the_reset_product_cannot_move():
    layer, x = recur.GRU(3, 4), torch.randn(6, 2, 3)
    with pytest.raises(InputError, match="inside the reset gate's product"):
        convert(layer, layer.cell, bias="one")
    with torch.no_grad():
        layer.bias_hh_l0[8:] = 0
    assert close(layer(x)[0], convert(layer, layer.cell, bias="one")(x).output)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def keras_layer(cell: str, weights: list[np.ndarray], x: np.ndarray, reset_after: bool = True) -> np.ndarray:
    """Keras 3's formulas, in numpy: SimpleRNN, LSTM (i f c o), GRU (z r h); x [B, T, D] -> [B, T, H]."""
    kernel, recurrent = weights[:2]
    hidden = recurrent.shape[0]
    bias = weights[2] if len(weights) == 3 else np.zeros(kernel.shape[1])
    h = c = np.zeros((len(x), hidden))
    outputs = []
    for x_t in x.transpose(1, 0, 2):
        if cell == "rnn":
            h = np.tanh(x_t @ kernel + h @ recurrent + bias)
        elif cell == "lstm":
            i, f, g, o = np.split(x_t @ kernel + h @ recurrent + bias, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            two = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
            xz, xr, xh = np.split(x_t @ kernel + two[0], 3, axis=1)
            uz, ur, uh = np.split(recurrent, 3, axis=1)
            bz, br, bh = np.split(two[1], 3)
            z, r = sigmoid(xz + h @ uz + bz), sigmoid(xr + h @ ur + br)
            n = np.tanh(xh + r * (h @ uh + bh)) if reset_after else np.tanh(xh + (r * h) @ uh)
            h = z * h + (1 - z) * n
        outputs.append(h)
    return np.stack(outputs, axis=1)


# only Keras's GRU has two biases
@pytest.mark.parametrize(
    ("cell", "gates", "bias"),
    [("rnn", 1, 0), ("rnn", 1, 1), ("lstm", 4, 0), ("lstm", 4, 1), ("gru", 3, 0), ("gru", 3, 1), ("gru", 3, 2)],
)
def test_keras_weights_come_and_go_exactly(cell, gates, bias):
    random = np.random.default_rng(0)
    weights = [random.normal(size=(3, 4 * gates)), random.normal(size=(4, 4 * gates))]
    weights += [random.normal(size=(2, 4 * gates) if bias == 2 else 4 * gates)] if bias else []
    layer = from_keras(weights, cell)
    x = random.normal(size=(2, 6, 3))
    expected = keras_layer(cell, weights, x, reset_after=bias != 1)
    assert np.allclose(layer(torch.from_numpy(x)).output.detach().numpy(), expected, atol=1e-12)
    for a, b in zip(weights, to_keras(layer), strict=True):
        assert np.array_equal(a, b)


def test_a_keras_gru_without_bias_is_told_apart_by_argument():
    random = np.random.default_rng(0)
    weights = [random.normal(size=(3, 12)), random.normal(size=(4, 12))]
    x = random.normal(size=(2, 6, 3))
    for after in (True, False):
        output = from_keras(weights, "gru", reset_after=after)(torch.from_numpy(x)).output.detach().numpy()
        assert np.allclose(output, keras_layer("gru", weights, x, reset_after=after), atol=1e-12)


def test_torch_layers_go_to_keras():
    x = torch.randn(2, 6, 3)
    for cell, layer in (("rnn", recur.RNN(3, 4)), ("lstm", recur.LSTM(3, 4)), ("gru", recur.GRU(3, 4))):
        expected = layer(x.transpose(0, 1))[0].transpose(0, 1).detach()
        assert np.allclose(keras_layer(cell, to_keras(layer), x.numpy()), expected, atol=1e-6)
    new = Recurrent(GRU("before", "new"), 3, 4, batch_first=True)
    assert np.allclose(keras_layer("gru", to_keras(new), x.numpy(), False), new(x).output.detach(), atol=1e-6)


def test_keras_errors_say_what_fits():
    with pytest.raises(InputError, match="`cell` must be 'rnn', 'lstm' or 'gru' for Keras, got 'lstn'"):
        from_keras([], "lstn")
    with pytest.raises(InputError, match="must be kernel, recurrent kernel and maybe bias"):
        from_keras([np.zeros((3, 4))], "rnn")
    with pytest.raises(
        InputError, match=r"`weights` of a lstm with H = 4 must be \[D, 4H\] and \[H, 4H\], got \[3, 4\]"
    ):
        from_keras([np.zeros((3, 4)), np.zeros((4, 4))], "lstm")
    with pytest.raises(InputError, match=r"must have a bias of 4H, got \[2, 16\]"):
        from_keras([np.zeros((3, 16)), np.zeros((4, 16)), np.zeros((2, 16))], "lstm")
    with pytest.raises(InputError, match="`activation` is SimpleRNN's; recur's gru has tanh, got 'relu'"):
        from_keras([np.zeros((3, 12)), np.zeros((4, 12))], "gru", activation="relu")
    relu = from_keras([np.eye(3), np.zeros((3, 3))], "rnn", activation="relu")
    assert relu(torch.tensor([[[-1.0, 0.0, 2.0]]]).double()).output.tolist() == [[[0.0, 0.0, 2.0]]]
    with pytest.raises(InputError, match="must be one layer and direction of Elman, LSTM or GRU for Keras"):
        to_keras(recur.LSTM(3, 4, 2))


def test_layers_inside_sequential():
    net = nn.Sequential(
        AllOutputs(recur.LSTM(3, 4, batch_first=True, bidirectional=True)),
        AllOutputs(Recurrent("gru-before", 8, 5, batch_first=True)),
        LastOutput(recur.GRU(5, 6, batch_first=True, bidirectional=True)),
        nn.Linear(12, 2),
    )
    x = torch.randn(2, 7, 3)
    assert net(x).shape == (2, 2)
    packed = pack_padded_sequence(x, [4, 7], batch_first=True, enforce_sorted=False)
    together = net(packed)
    for row, length in enumerate([4, 7]):
        assert close(net(x[row : row + 1, :length])[0], together[row])


def test_last_output_of_both_directions_is_each_directions_last():
    layer = recur.RNN(3, 4, bidirectional=True)
    x = torch.randn(5, 2, 3)
    output = layer(x)[0]
    assert torch.equal(LastOutput(layer)(x), torch.cat([output[-1, :, :4], output[0, :, 4:]], dim=-1))
    stacked = recur.LSTM(3, 4, 2, bidirectional=True)
    output = stacked(x)[0]
    assert torch.equal(LastOutput(stacked)(x), torch.cat([output[-1, :, :4], output[0, :, 4:]], dim=-1))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "lstm-peephole"])
def test_last_output_of_rows_of_different_length(kind):
    layer = Recurrent(kind, 3, 4, bidirectional=True) if "-" in kind else getattr(recur, kind)(3, 4, bidirectional=True)
    x, lengths = torch.randn(5, 3, 3), [5, 2, 0]
    together = LastOutput(layer)(x, lengths=lengths)
    for row, length in enumerate(lengths[:2]):
        assert close(LastOutput(layer)(x[:length, row : row + 1])[0], together[row])
    assert torch.equal(together[2], torch.zeros(8))
    assert torch.equal(AllOutputs(layer)(x, lengths=lengths)[2:, 1], torch.zeros(3, 8))


def test_output_map_is_the_same_at_every_step():
    net = nn.Sequential(AllOutputs(recur.RNN(3, 4)), OutputMap(4, 2))
    x = torch.randn(5, 2, 3)
    h = net[0](x)
    assert close(net(x), h @ net[1].linear.weight.T)
    assert close(OutputMap(4, 3, bias=True, softmax=True)(h).sum(-1), torch.ones(5, 2))
    packed = pack_padded_sequence(x, [5, 3])
    assert close(pad_packed_sequence(net(packed))[0][:3], net(x)[:3])


def test_only_recurrent_layers_can_be_wrapped():
    with pytest.raises(InputError, match="`layer` must be RNN, LSTM, GRU or Recurrent, got Linear"):
        AllOutputs(nn.Linear(3, 3))(torch.zeros(1, 3))
