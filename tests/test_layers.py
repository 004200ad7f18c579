"""RNN, LSTM and GRU against torch.nn, and the ragged rows that torch.nn does not have."""

import copy
import itertools
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import recur
from recur import InputError, Recurrent
from recur.cells import CELLS, GRU, LSTM, LSTMP, Elman

# largest difference accepted, relative to 1: sums in another order in float32, none to speak of in float64
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}
KINDS = ["RNN", "LSTM", "GRU"]


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=TOLERANCE[a.dtype], atol=TOLERANCE[a.dtype])


def pair(kind: str, *sizes: int, **options):
    theirs = getattr(nn, kind)(*sizes, **options)
    ours = getattr(recur, kind)(*sizes, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def states(hx) -> tuple[Tensor, ...]:
    return hx if isinstance(hx, tuple) else (hx,)


def initial(kind: str, count: int, batch: int, hidden: int, proj: int = 0, dtype=torch.float32):
    h = torch.randn(count, batch, proj or hidden, dtype=dtype, requires_grad=True)
    return (h, torch.randn(count, batch, hidden, dtype=dtype, requires_grad=True)) if kind == "LSTM" else h


def compare(theirs, ours, x: Tensor, hx, run) -> None:
    """Outputs, final states and every gradient, under random cotangents on outputs and states."""
    results = []
    for layer in (theirs, ours):
        layer.zero_grad()
        leaves = [x, *(states(hx) if hx is not None else ())]
        for leaf in leaves:
            leaf.grad = None
        torch.manual_seed(1)
        output, final = run(layer)
        torch.manual_seed(2)
        loss = sum((value * torch.randn_like(value)).sum() for value in (output, *states(final)))
        loss.backward()
        grads = [leaf.grad.clone() for leaf in leaves] + [p.grad.clone() for p in layer.parameters()]
        results.append([output, *states(final), *grads])
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape
        assert close(a, b), (a - b).abs().max()


MATRIX = [
    (kind, layers, bias, bidirectional, batch_first, proj, dtype)
    for kind, layers, bias, bidirectional, batch_first, proj, dtype in itertools.product(
        KINDS, (1, 2), (True, False), (False, True), (False, True), (0, 3), (torch.float32, torch.float64)
    )
    if kind == "LSTM" or not proj
]


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize("case", MATRIX, ids=lambda c: "-".join(map(str, c)))
def test_equals_torch_nn_in_outputs_states_and_gradients(case, backend):
    kind, layers, bias, bidirectional, batch_first, proj, dtype = case
    options = {"bias": bias, "bidirectional": bidirectional, "batch_first": batch_first, "dtype": dtype}
    theirs, ours = pair(kind, 4, 5, layers, **options, **({"proj_size": proj} if proj else {}))
    ours.backend = backend
    x = torch.randn(3, 7, 4, dtype=dtype, requires_grad=True)
    batch = 3 if batch_first else 7
    hx = initial(kind, layers * (2 if bidirectional else 1), batch, 5, proj, dtype)
    compare(theirs, ours, x, hx, lambda layer: layer(x, hx))
    # the same through `lengths`, every row full: the path for ragged rows
    full = [x.shape[1 if batch_first else 0]] * batch
    compare(theirs, ours, x, hx, lambda layer: layer(x, hx, lengths=full) if layer is ours else layer(x, hx))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("enforce_sorted", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_equals_torch_nn_on_packed_sequences(kind, bidirectional, batch_first, enforce_sorted, with_state):
    theirs, ours = pair(kind, 4, 5, 2, bidirectional=bidirectional, batch_first=batch_first)
    x = torch.randn(3, 7, 4, requires_grad=True)
    lengths = torch.tensor([7, 4, 2] if enforce_sorted else [2, 7, 4])
    hx = initial(kind, 4 if bidirectional else 2, 3, 5) if with_state else None
    rows = x if batch_first else x.transpose(0, 1)

    def run(layer):
        packed = pack_padded_sequence(rows, lengths, batch_first, enforce_sorted)
        output, final = layer(packed, hx)
        assert isinstance(output, PackedSequence)
        assert torch.equal(output.batch_sizes, packed.batch_sizes)
        assert pad_packed_sequence(output)[1].tolist() == lengths.tolist()
        return output.data, final

    compare(theirs, ours, x, hx, run)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_equals_torch_nn_without_a_batch(kind, backend, batch_first):
    theirs, ours = pair(kind, 4, 5, bidirectional=True, batch_first=batch_first)
    ours.backend = backend
    x = torch.randn(6, 4, requires_grad=True)
    compare(theirs, ours, x, None, lambda layer: layer(x))
    h = torch.randn(2, 5)
    hx = (h, torch.randn(2, 5)) if kind == "LSTM" else h
    for a, b in zip(states(theirs(x, hx)[1]), states(ours(x, hx)[1]), strict=True):
        assert a.shape == b.shape
        assert close(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_between_layers_draws_as_torch_nn_does(kind):
    theirs, ours = pair(kind, 4, 5, 3, dropout=0.5, bidirectional=True)
    x = torch.randn(6, 2, 4, requires_grad=True)
    compare(theirs, ours, x, None, lambda layer: layer(x))
    compare(theirs, ours, x, None, lambda layer: layer(x, lengths=[6, 6]) if layer is ours else layer(x))


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_rnn_nonlinearity(nonlinearity):
    theirs, ours = pair("RNN", 4, 5, nonlinearity=nonlinearity)
    x = torch.randn(6, 2, 4)
    assert close(theirs(x)[0], ours(x)[0])
    assert close(theirs(x)[0], ours(x, lengths=[6, 6])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_loads_both_ways_and_errors_are_torchs(kind):
    theirs, ours = pair(kind, 4, 5, 2, bidirectional=True)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    theirs.load_state_dict(ours.state_dict())
    assert isinstance(ours, getattr(nn, kind))
    assert str(theirs).replace("(", " (") == str(ours).replace("(", " (")
    for wrong in (
        lambda layer: layer(torch.zeros(2, 3, 9)),
        lambda layer: layer(torch.zeros(2)),
        lambda layer: layer(torch.zeros(2, 3, 4, dtype=torch.float64)),
        lambda layer: layer(
            torch.zeros(2, 3, 4), states(torch.zeros(4, 9, 5)) * 2 if kind == "LSTM" else torch.zeros(4, 9, 5)
        ),
    ):
        with pytest.raises(Exception) as a:  # noqa: PT011 - whatever torch raises, ours must be the same
            wrong(theirs)
        with pytest.raises(type(a.value)) as b:
            wrong(ours)
        assert str(a.value) == str(b.value)
    for arguments in ((0, 5), (4, 0), (4, 5, 0), ("4", 5)):
        with pytest.raises((ValueError, TypeError)) as a:
            getattr(nn, kind)(*arguments)
        with pytest.raises(type(a.value)) as b:
            getattr(recur, kind)(*arguments)
        assert str(a.value) == str(b.value)


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cell_modules_equal_torch_nn_and_their_own_equation(kind):
    theirs, ours = getattr(nn, kind)(4, 5), getattr(recur, kind)(4, 5)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 4)
    for a, b in zip(states(theirs(x)), states(ours(x)), strict=True):
        assert torch.equal(a, b)
    layer = Recurrent(ours.cell, 4, 5, bias="two")
    with torch.no_grad():
        for target, source in zip(layer.parameters(), ours.parameters(), strict=True):
            target.copy_(source)
    final = layer(x[None]).state
    for a, b in zip(states(ours(x)), final, strict=True):
        assert close(a, b[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grad", [True, False])
def test_final_states_can_be_changed_in_place_with_a_gradient(kind, grad):
    with torch.set_grad_enabled(grad):
        output, final = getattr(recur, kind)(4, 5)(torch.randn(3, 2, 4))
    final = final[0] if isinstance(final, tuple) else final
    before, factor = output.detach().clone(), torch.full((), 2.0, requires_grad=True)
    final.mul_(factor)
    final.sum().backward()
    assert close(factor.grad, before[-1].sum())
    assert torch.equal(output, before)


LAYERS = {
    **{kind: (lambda kind=kind, **o: getattr(recur, kind)(4, 5, 2, **o)) for kind in KINDS},
    "LSTM-proj": lambda **o: recur.LSTM(4, 5, 2, proj_size=3, **o),
    **{
        name: (lambda name=name, **o: Recurrent(name, 4, 5, 2, **o))
        for name in CELLS
        if name not in ("rnn", "lstm", "gru")
    },
    "LSTM-one-bias": lambda **o: Recurrent("lstm", 4, 5, 2, bias="one", **o),
    "LSTMP": lambda **o: Recurrent(LSTMP, 4, 5, 2, proj_size=3, **o),
}


def flat_states(final) -> list[Tensor]:
    return [final] if isinstance(final, Tensor) else list(final)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_padded_row_is_the_row_alone(name, bidirectional, backend):
    layer = LAYERS[name](bidirectional=bidirectional, backend=backend).double()
    lengths = [3, 7, 0, 1, 7]
    x = torch.randn(7, 5, 4, dtype=torch.float64)
    for row, length in enumerate(lengths):
        x[length:, row] = float("nan")  # what stands in the padding never matters
    x.requires_grad_()
    output, final = layer(x, lengths=lengths)
    (output.sum() + sum(value.sum() for value in flat_states(final))).backward()
    together = [x.grad.clone()] + [p.grad.clone() for p in layer.parameters()]
    apart = [torch.zeros_like(g) for g in together]
    for row, length in enumerate(lengths):
        assert torch.equal(output[length:, row], torch.zeros_like(output[length:, row]))
        if not length:
            assert all(torch.equal(value[:, row], torch.zeros_like(value[:, row])) for value in flat_states(final))
            continue
        alone = x[:length, row : row + 1].detach().requires_grad_()
        layer.zero_grad()
        output_1, final_1 = layer(alone)
        (output_1.sum() + sum(value.sum() for value in flat_states(final_1))).backward()
        assert close(output_1[:, 0], output[:length, row])
        for a, b in zip(flat_states(final_1), flat_states(final), strict=True):
            assert close(a[:, 0], b[:, row])
        apart[0][:length, row] = alone.grad[:, 0]
        for total, parameter in zip(apart[1:], layer.parameters(), strict=True):
            total += parameter.grad
    for a, b in zip(together, apart, strict=True):
        assert close(a, b)


@pytest.mark.parametrize("name", LAYERS)
def test_step_by_step_is_the_whole_sequence(name):
    layer, x, state = LAYERS[name](), torch.randn(7, 2, 4), None
    whole, final = layer(x)
    steps = []
    for x_t in x:
        output, state = layer(x_t[None], state)
        steps.append(output)
    assert close(torch.cat(steps), whole)
    first, state = layer(x[:3])
    second, state = layer(x[3:], state)
    assert close(torch.cat([first, second]), whole)
    for a, b in zip(flat_states(state), flat_states(final), strict=True):
        assert close(a, b)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradcheck(name, backend):
    layer = LAYERS[name](backend=backend).double()
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    weights = dict(layer.named_parameters())

    def run(x, *values):
        given = dict(zip(weights, values, strict=True))
        output, final = torch.func.functional_call(layer, given, (x,), {"lengths": [3, 2]})
        return (output, *flat_states(final))

    assert torch.autograd.gradcheck(run, (x, *weights.values()))


@pytest.mark.parametrize("name", ["LSTM", "GRU", "lstm-peephole"])
def test_a_zero_length_row_keeps_its_initial_state(name):
    layer = LAYERS[name]()
    h, c = torch.randn(2, 2, 5), torch.randn(2, 2, 5)
    if name == "lstm-peephole":
        state = recur.State(h=h, c=c)
    else:
        state = (h, c) if name == "LSTM" else h
    _, final = layer(torch.randn(4, 2, 4), state, lengths=[0, 4])
    for given, after in zip(flat_states(state), flat_states(final), strict=True):
        assert torch.equal(given[:, 0], after[:, 0])
        assert not torch.equal(given[:, 1], after[:, 1])


@pytest.mark.parametrize("name", ["LSTM", "rnn-sigmoid"])
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([3, 8], r"`lengths` must be in 0..T = 0..7, got 8 in row 1"),
        ([-1, 3], r"`lengths` must be in 0..T = 0..7, got -1 in row 0"),
        ([3], r"`lengths` must have shape \[B\] = \[2\], got \[1\]"),
        ([1.5, 2], r"`lengths` must be whole numbers, got torch.float32"),
    ],
)
def test_lengths_out_of_range_are_named(name, lengths, message):
    with pytest.raises(InputError, match=message):
        LAYERS[name]()(torch.zeros(7, 2, 4), lengths=lengths)


@pytest.mark.parametrize("name", ["LSTM", "rnn-sigmoid"])
def test_nan_in_a_valid_step_is_named(name):
    x = torch.zeros(7, 2, 4)
    x[5, 1, 2] = float("nan")
    with pytest.raises(InputError, match="`input` must hold numbers, got NaN in row 1, step 5, feature 2"):
        LAYERS[name]()(x, lengths=[7, 6])
    LAYERS[name]()(x, lengths=[7, 5])


def test_lengths_need_a_batch_and_no_packing():
    layer = recur.LSTM(4, 5)
    with pytest.raises(InputError, match=r"`lengths` needs a batch of rows, got an input of shape \[7, 4\]"):
        layer(torch.zeros(7, 4), lengths=[7])
    packed = pack_padded_sequence(torch.zeros(7, 2, 4), [7, 3])
    with pytest.raises(InputError, match="`lengths` must not be given with a PackedSequence"):
        layer(packed, lengths=[7, 3])


def test_constructor_arguments_of_our_own_are_checked():
    with pytest.raises(InputError, match=r"`recurrent_dropout` must be in \[0, 1\), got 1"):
        recur.LSTM(4, 5, recurrent_dropout=1)
    with pytest.raises(
        InputError, match="`backend` must be one of auto, reference, cpu, cpu-bfloat16, torch, got 'cuda'"
    ):
        recur.GRU(4, 5, backend="cuda")
    with pytest.raises(InputError, match="`backend` 'torch' has no kernel for PeepholeLSTM"):
        Recurrent("lstm-peephole", 4, 5, backend="torch")(torch.zeros(1, 1, 4))
    with pytest.raises(InputError, match="`hidden_size` must be a whole number above 0, got 0"):
        Recurrent("lstm", 4, 0)
    with pytest.raises(InputError, match="`proj_size` must be 0 for LSTM"):
        Recurrent("lstm", 4, 5, proj_size=3)
    with pytest.raises(InputError, match="`proj_size` must be above 0 for LSTMP"):
        Recurrent(LSTMP, 4, 5)
    with pytest.raises(InputError, match="`bias` must be True, False, 'one' or 'two', got 'three'"):
        Recurrent("lstm", 4, 5, bias="three")
    with pytest.raises(InputError, match=r"`dropout` must be in \[0, 1\), got -0.1"):
        Recurrent("lstm", 4, 5, dropout=-0.1)
    with pytest.raises(InputError, match="`cell` must be a Cell, a class of one or a name, got 3"):
        Recurrent(3, 4, 5)


def test_recurrent_checks_shapes():
    layer = Recurrent("lstm-peephole", 4, 5, batch_first=True)
    with pytest.raises(InputError, match=r"`input` must be \[B, T, D\] with D = 4, got \[2, 3, 9\]"):
        layer(torch.zeros(2, 3, 9))
    with pytest.raises(InputError, match=r"`state.h` must have shape \[1, 2, 5\], got \[1, 9, 5\]"):
        layer(torch.zeros(2, 3, 4), recur.State(h=torch.zeros(1, 9, 5), c=torch.zeros(1, 2, 5)))
    with pytest.raises(InputError, match=r"`state` must be State\(h=..., c=...\), got tuple"):
        layer(torch.zeros(2, 3, 4), (torch.zeros(1, 2, 5),) * 2)


def test_recurrent_dropout_drops_weights_in_training_only():
    layer, x = recur.LSTM(4, 5, recurrent_dropout=0.5), torch.randn(6, 2, 4)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    plain = nn.LSTM(4, 5)
    plain.load_state_dict(layer.state_dict())
    assert close(plain(x)[0], layer(x)[0])


def test_recurrent_dropout_drops_whole_weights_for_the_whole_sequence():
    layer = Recurrent(Elman(lambda v: v), 1, 3, bias=False, recurrent_dropout=0.5)
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1.0)
        layer.weight_hh_l0.copy_(torch.eye(3))
    x = torch.zeros(5, 1, 1)
    x[0] = 1
    for _ in range(10):
        output = layer(x).output[:, 0]
        # each unit either keeps its weight, scaled by 2, at every step, or has none
        for unit in output.T.tolist():
            assert unit in ([1, 2, 4, 8, 16], [1, 0, 0, 0, 0])


def test_replace_turns_modules_in_place():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.GRU(4, 5, 2), nn.Linear(5, 2))
            self.rnn, self.cell = nn.RNN(4, 5), nn.LSTMCell(4, 5)

    net = Net()
    parameters = list(net.parameters())
    x = torch.randn(6, 3, 4)
    before = net.inner[0](x)[0], net.rnn(x)[0], net.cell(x[0])[0]
    assert recur.replace(net) is net
    assert [type(m) for m in (net.inner[0], net.rnn, net.cell)] == [recur.GRU, recur.RNN, recur.LSTMCell]
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    after = net.inner[0](x)[0], net.rnn(x)[0], net.cell(x[0])[0]
    assert all(close(a, b) for a, b in zip(before, after, strict=True))
    net.inner[0](x, lengths=[6, 2, 0])
    assert type(recur.replace(nn.LSTM(4, 5))) is recur.LSTM
    twin = copy.deepcopy(net)
    assert torch.equal(twin.rnn(x)[0], after[1])


def test_replace_leaves_subclasses_alone():
    class Mine(nn.LSTM):
        pass

    assert type(recur.replace(Mine(4, 5))) is Mine


def test_parameter_layout_of_recurrent_is_torchs():
    ours = Recurrent("lstm", 4, 5, 2, bias="two", bidirectional=True)
    theirs = nn.LSTM(4, 5, 2, bidirectional=True)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(6, 3, 4)
    assert close(ours(x).output, theirs(x)[0])
    assert "LSTM(), 4, 5, num_layers=2, bias='two', bidirectional=True" in str(ours)
    assert "GRU(reset='before', z='old')" in repr(GRU("before"))
    assert repr(LSTM()) == "LSTM()"


def test_make_gives_the_stand_in_where_there_is_one():
    from recur.layers import make

    assert type(make("gru", 4, 5, bidirectional=True)) is recur.GRU
    assert type(make("gru-before", 4, 5)) is Recurrent
    with pytest.raises(InputError, match=r"found 'grru', did you mean 'gru'\?"):
        make("grru", 4, 5)


@pytest.mark.parametrize("packed", [False, True])
def test_padding_of_a_growing_relu_network_cannot_overflow(packed):
    layer = recur.RNN(2, 2, nonlinearity="relu", bias=False)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(2 * torch.eye(2))
        layer.weight_ih_l0.fill_(0.1)
    x = torch.ones(200, 2, 2)
    x[:, 0] = -1
    x[3:, 1] = 0
    final = layer(pack_padded_sequence(x, [200, 3]))[1] if packed else layer(x, lengths=[5, 3])[1]
    final.sum().backward()
    assert layer.weight_hh_l0.grad.isfinite().all()
    assert layer.weight_hh_l0.grad.abs().max() > 0


def test_states_are_held_through_padding_whatever_their_size():
    layer = recur.LSTM(4, 5)
    h, c = 1e6 * torch.randn(1, 2, 5), torch.randn(1, 2, 5)
    _, (h_n, c_n) = layer(torch.randn(6, 2, 4), (h, c), lengths=[0, 6])
    assert torch.equal(c_n[:, 0], c[:, 0])
    assert torch.equal(h_n[:, 0], h[:, 0])
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1e5)
    x = torch.randn(6, 2, 4)
    assert torch.equal(layer(x, lengths=[2, 6])[1][1][:, 0], layer(x[:2, :1])[1][1][:, 0])


@pytest.mark.parametrize("base", [LSTM, GRU, Elman])
def test_a_subclass_runs_its_own_equation(base):
    def step(x, U, s):
        return s.map(lambda value: 0 * value + 7)

    changed = type("Changed", (base,), {"step": step})
    assert (Recurrent(changed, 2, 3)(torch.randn(4, 1, 2)).output == 7).all()
    same = type("Same", (base,), {})
    assert same().torch_kernel == base().kernel


def test_a_step_must_not_work_in_place():
    class Careless(recur.Cell):
        gates = "a"

        def step(x, U, s):
            h = s.h
            h *= 0.9
            return recur.State(h=h + x.a)

    with pytest.raises(InputError, match="cell Careless: `step` must not change the state in place"):
        Recurrent(Careless, 2, 3, backend="reference")(torch.zeros(2, 1, 2))
    with pytest.raises(
        InputError, match=r"h \*= 0.9\n  cannot be compiled: a state is changed in place; compute a new"
    ):
        Recurrent(Careless, 2, 3)(torch.zeros(2, 1, 2))


def test_a_step_must_return_the_size_it_got():
    class Narrow(recur.Cell):
        gates = "a"

        def step(x, U, s):
            return recur.State(h=recur.mean(x.a))

    with pytest.raises(InputError, match=r"cell Narrow: `step` must return h of shape \[1, 3\], got \[1, 1\]"):
        Recurrent(Narrow, 2, 3, backend="reference")(torch.zeros(2, 1, 2))
    with pytest.raises(
        InputError, match="cell Narrow: `step` must return h as a value of the H units, got a sum or mean"
    ):
        Recurrent(Narrow, 2, 3)(torch.zeros(2, 1, 2))


def test_padding_does_not_poison_the_gradients_of_a_users_cell():
    class Logarithm(recur.Cell):
        gates = "a"

        def step(x, U, s):
            return recur.State(h=recur.log(x.a * x.a) + U.a(s.h))

    layer = Recurrent(Logarithm, 2, 3, bias=False)
    layer(torch.randn(4, 3, 2), lengths=[4, 2, 0]).output.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_or_wrong_packed_input(kind):
    theirs, ours = pair(kind, 4, 5)
    sparse = pack_padded_sequence(torch.randn(50, 8, 4), [50, 1, 1, 1, 1, 1, 1, 1])
    assert close(theirs(sparse)[0].data, ours(sparse)[0].data)
    # torch's LSTM does not look at the width of packed input
    with pytest.raises(RuntimeError, match="Expected 4, got 9"):
        ours(pack_padded_sequence(torch.randn(3, 2, 9), [3, 3]))


def test_no_rows_and_no_steps():
    assert recur.LSTM(4, 5)(torch.zeros(3, 0, 4), lengths=[])[0].shape == (3, 0, 5)
    with pytest.raises(InputError, match="`input` must have at least one step, got T = 0"):
        Recurrent("lstm-peephole", 4, 5)(torch.zeros(0, 2, 4))
    with pytest.raises(InputError, match="`input` must be a tensor, got PackedSequence; give `lengths`"):
        Recurrent("lstm-peephole", 4, 5)(pack_padded_sequence(torch.zeros(3, 2, 4), [3, 2]))


def test_cell_modules_can_be_scripted():
    for kind in ("RNNCell", "LSTMCell", "GRUCell"):
        cell = getattr(recur, kind)(4, 5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls its own script compiler old
            scripted = torch.jit.script(cell)
        x = torch.randn(3, 4)
        assert torch.equal(states(scripted(x))[0], states(cell(x))[0])


@pytest.mark.parametrize("name", ["LSTM", "GRU", "LSTM-proj", "mgu"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradcheck_with_initial_states_and_empty_rows_in_both_directions(name, backend):
    layer = LAYERS[name](backend=backend, bidirectional=True).double()
    x = torch.randn(3, 3, 4, dtype=torch.float64, requires_grad=True)
    final = layer(x, lengths=[3, 0, 1])[1]
    start = [torch.randn_like(value).requires_grad_() for value in flat_states(final)]

    def run(x, *values):
        if isinstance(layer, Recurrent):
            state = recur.State(**dict(zip(layer.cell.state_names, values, strict=True)))
        else:
            state = values if len(values) > 1 else values[0]
        output, final = layer(x, state, lengths=[3, 0, 1])
        return (output, *flat_states(final))

    assert torch.autograd.gradcheck(run, (x, *start))
