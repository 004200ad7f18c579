"""Skip connections between layers: the sum they say they are, in every way to run a layer, and what they are for."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import recur
from recur import Recurrent
from recur.cells import LSTMP

LAYERS = {
    "RNN": lambda **options: recur.RNN(3, 5, 3, **options),
    "LSTM": lambda **options: recur.LSTM(3, 5, 3, **options),
    "GRU": lambda **options: recur.GRU(3, 5, 3, **options),
    "projected": lambda **options: recur.LSTM(3, 5, 3, proj_size=2, **options),
    "mgu": lambda **options: Recurrent("mgu", 3, 5, 3, **options),
    "LSTMP": lambda **options: Recurrent(LSTMP, 3, 5, 3, proj_size=2, **options),
    "mingru": lambda **options: Recurrent("mingru", 3, 5, 3, **options),
}


def by_layer(layer: nn.Module, x: Tensor, lengths: list[int] | None) -> Tensor:
    """The outputs of layers run one by one, each but the first with its input added."""
    single = {"bidirectional": layer.bidirectional, "batch_first": layer.batch_first, "proj_size": layer.proj_size}
    for number in range(layer.num_layers):
        if isinstance(layer, Recurrent):
            one = Recurrent(layer.cell, x.shape[-1], layer.hidden_size, **single)
        else:
            if layer.mode != "LSTM":
                single.pop("proj_size", None)
            one = type(layer)(x.shape[-1], layer.hidden_size, **single)
        own = {name: value for name, value in layer.state_dict().items() if f"_l{number}" in name}
        one.load_state_dict({name.replace(f"_l{number}", "_l0"): value for name, value in own.items()})
        output = one.to(x.dtype)(x, lengths=lengths)[0]
        x = x + output if number else output
    return x


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "batch_first": True}], ids=["plain", "both ways"])
def test_each_layer_but_the_first_adds_its_input(name: str, backend: str, options: dict):
    layer = LAYERS[name](residual=True, backend=backend, **options).double()
    x = torch.randn(4, 4, 3, dtype=torch.float64)
    for lengths in (None, [4, 2, 0, 1]):
        output = layer(x, lengths=lengths)[0]
        torch.testing.assert_close(output, by_layer(layer, x, lengths))
        torch.testing.assert_close(layer.trace(x, lengths=lengths).output, output)
        if lengths:
            first = output if layer.batch_first else output.transpose(0, 1)
            assert all(not row[length:].any() for row, length in zip(first, lengths, strict=True))
    if not options:
        stream = layer.stream(4)
        torch.testing.assert_close(torch.stack([stream.step(one) for one in x]), layer(x)[0])
        stream.reset()
        torch.testing.assert_close(stream.steps(x.transpose(0, 1)).transpose(0, 1), layer(x)[0])


def test_nothing_else_is_other():
    for make in LAYERS.values():
        layer, plain = make(residual=True), make()
        assert list(layer.state_dict()) == list(plain.state_dict())
        plain.load_state_dict(layer.state_dict())
        x = torch.randn(4, 2, 3)
        assert not torch.allclose(layer(x)[0], plain(x)[0])
        # the first layer's states are its own
        assert torch.allclose(layer.trace(x).states[0].h, plain.trace(x).states[0].h)
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(other(x)[0], layer(x)[0])
    assert "residual=True" in repr(Recurrent("gru", 3, 5, 2, residual=True))
    assert "residual" not in recur.LSTM(3, 5).__dict__
    one, plain = recur.GRU(3, 5, residual=True), recur.GRU(3, 5)
    plain.load_state_dict(one.state_dict())
    assert torch.allclose(one(x)[0], plain(x)[0], atol=1e-6)


def test_dropout_is_of_what_a_layer_reads_and_not_of_what_is_added():
    layer = recur.GRU(3, 5, 2, dropout=0.9, residual=True)
    with torch.no_grad():
        for name, value in layer.named_parameters():
            if "_l1" in name:
                value.zero_()
    x = torch.randn(6, 2, 3)
    # the second layer gives 0
    assert torch.allclose(layer(x)[0], layer.trace(x).states[0].h, atol=1e-6)


def test_packed_rows_and_unbatched_ones():
    layer = recur.LSTM(3, 5, 3, residual=True)
    x, lengths = torch.randn(6, 3, 3), [4, 6, 1]
    packed, _ = layer(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False))
    assert torch.allclose(pad_packed_sequence(packed)[0], layer(x, lengths=lengths)[0], atol=1e-6)
    assert torch.allclose(layer(x[:, 1])[0], layer(x)[0][:, 1], atol=1e-6)


@pytest.mark.parametrize("make", [LAYERS["GRU"], LAYERS["mgu"]])
def test_it_is_compiled_and_exported_by_torch(make):
    layer, x = make(residual=True), torch.randn(4, 2, 3)
    expected = layer(x)[0]
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        assert torch.allclose(torch.compile(layer, fullgraph=True, backend="aot_eager")(x)[0], expected, atol=1e-6)
    assert torch.allclose(torch.export.export(layer, (x,)).module()(x)[0], expected, atol=1e-6)


def test_conversion_keeps_it():
    layer, x = recur.LSTM(3, 5, 3, residual=True), torch.randn(4, 2, 3)
    assert torch.allclose(
        recur.convert(layer, recur.CELLS["lstm-peephole"]()).forward(x).output, layer(x)[0], atol=1e-6
    )


@pytest.mark.parametrize("kind", [recur.RNN, recur.LSTM, recur.GRU])
def test_the_lowest_of_8_layers_gets_a_gradient(kind: type[nn.Module]):
    norms = {}
    for residual in (False, True):
        torch.manual_seed(1)
        layer = kind(16, 16, 8, residual=residual)
        output = layer(torch.randn(10, 8, 16))[0]
        (output[-1] * torch.randn(8, 16)).sum().backward()
        norms[residual] = float(layer.weight_ih_l0.grad.norm())
    assert norms[True] > 30 * norms[False]
