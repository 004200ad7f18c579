"""`recur::scan` among torch's own: compiled, exported, transformed, traced, and never read past the end of a tensor."""

import copy
import io
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from equations import problem
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

import recur
import recur.scan
from recur import GRU, LSTM, RNN, Cell, InputError, Recurrent, State, tanh
from recur.cells import CELLS, Elman
from recur.cells.cell import Named
from recur.compiler import kernel, machine
from recur.compiler.target import host


class Leaky(Cell):
    gates = "a"

    def __init__(self, keep: float = 0.9):
        self.rate = keep

    def step(self, x, U, s):
        return State(h=self.rate * s.h + (1 - self.rate) * tanh(x.a + U.a(s.h)))


class Masked(Cell):
    gates = "a"
    masks = "z"

    def step(x, U, s, m):
        return State(h=m.z * s.h + (1 - m.z) * tanh(x.a + U.a(s.h)))


LAYERS = {
    "LSTM": lambda **options: LSTM(4, 6, 2, bidirectional=True, **options),
    "GRU": lambda **options: GRU(4, 6, **options),
    "RNN": lambda **options: RNN(4, 6, **options),
    "gru-before": lambda **options: Recurrent("gru-before", 4, 6, **options),
    "own": lambda **options: Recurrent(Leaky(), 4, 6, bidirectional=True, **options),
}
LENGTHS = torch.tensor([5, 0, 2])
every_layer = pytest.mark.parametrize("name", LAYERS)
ragged_or_not = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])


@pytest.fixture
def allow_rnn():
    # torch's own switch: without it torch.compile leaves subclasses of nn.RNN, nn.LSTM and nn.GRU out of its graphs
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        yield


def flat(found) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else [tensor for part in found for tensor in flat(part)]


def given(lengths: Tensor | None) -> dict[str, Tensor]:
    return {} if lengths is None else {"lengths": lengths}


def solved(layer: nn.Module, x: Tensor, lengths: Tensor | None = None, run=None) -> list[Tensor]:
    """Outputs, final states and every gradient under random cotangents."""
    layer.zero_grad()
    x = x.detach().clone().requires_grad_()
    found = flat((layer if run is None else run)(x, **given(lengths)))
    torch.manual_seed(1)
    sum((value * torch.randn(value.shape).to(value.dtype)).sum() for value in found).backward()
    return [*found, x.grad, *(parameter.grad.clone() for parameter in layer.parameters())]


def close(a, b, tolerance: float = 1e-5) -> bool:
    return all(torch.allclose(u, v, rtol=tolerance, atol=tolerance) for u, v in zip(flat(a), flat(b), strict=True))


# the operator


def arguments(cell: Cell, *, requires_grad: bool = True, lengths=None, resets=None, **options: bool) -> list:
    p = problem(cell, 4, 3, 2, 5, dtype=torch.float32)
    x, weights, state = (
        [None if v is None else v.clone().requires_grad_(requires_grad) for v in values]
        for values in ([p.x], p.weights, p.state)
    )
    flags = [options.get(name, False) for name in ("reverse", "left", "keep", "states", "gates")]
    return [p.text, *x, *weights, state, lengths, resets, p.masks, *flags]


CALLS = {
    "plain": (CELLS["lstm"](), {}),
    "ragged": (CELLS["gru"](), {"lengths": torch.tensor([4, 0, 2])}),
    "reverse": (Elman(), {"reverse": True}),
    "left": (CELLS["lstm"](), {"lengths": torch.tensor([4, 0, 2]), "left": True, "reverse": True}),
    "resets": (CELLS["gru-before"](), {"resets": torch.rand(4, 3) < 0.3}),
    "masks": (Masked(), {}),
    "states": (CELLS["lstm"](), {"states": True}),
    "gates": (CELLS["lstm-peephole"](), {"states": True, "gates": True}),
    "projected": (CELLS["lstm-projected"]() if "lstm-projected" in CELLS else recur.LSTM(2, 5, proj_size=3).cell, {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name):
    cell, options = CALLS[name]
    call = arguments(cell, **options)
    torch.library.opcheck(torch.ops.recur.scan.default, call)
    # what it keeps goes to the backward, which is not differentiated itself
    call = arguments(cell, requires_grad=False, **options, keep=True)
    found = torch.ops.recur.scan(*call)
    # of steps that no row has, what is kept is not set
    torch.library.opcheck(torch.ops.recur.scan.default, call, test_utils=("test_schema", "test_faketensor"))
    states, every, gates = len(call[8]), *call[-2:]
    final = found[1 : 1 + states]
    d_states = [torch.randn_like(v) for v in found[1 + states : 2 * states]] if every else []
    kept = found[1 + states + len(d_states) + gates :]
    cotangents = [torch.randn_like(found[0]), [torch.randn_like(v) for v in final], d_states]
    torch.library.opcheck(torch.ops.recur.scan_backward.default, [*call[:14], found[0], kept, *cotangents, True, True])


LONG = torch.tensor([4, 3, 5])
WRONG = {
    "x": [
        (1, torch.zeros(4, 3)),
        (1, torch.zeros(0, 3, 2)),
        (1, torch.zeros(4, 3, 3)),
        (1, torch.zeros(4, 3, 2).half()),
    ],
    "ih": [(2, torch.zeros(19, 2)), (2, torch.zeros(20)), (2, torch.zeros(0, 2)), (2, torch.zeros(20, 2).double())],
    "hh": [(3, torch.zeros(20, 4)), (3, None), (3, torch.zeros(20))],
    "bias_ih": [(4, torch.zeros(5)), (4, torch.zeros(20, 1))],
    "bias_hh": [(5, torch.zeros(19))],
    "units": [(6, torch.zeros(1, 5))],
    "hr": [(7, torch.zeros(5, 5))],
    "state": [(8, [torch.zeros(3, 5)])],
    "state.c": [(8, [torch.zeros(3, 5), torch.zeros(2, 5)])],
    "state.h": [(8, [torch.zeros(3, 4), torch.zeros(3, 5)]), (8, [torch.zeros(3, 5).double(), torch.zeros(3, 5)])],
    "lengths": [(9, LONG), (9, -LONG), (9, LONG[:2]), (9, LONG.int()), (9, LONG[None])],
    "resets": [(10, torch.zeros(4, 3)), (10, torch.zeros(3, 4, dtype=torch.bool))],
    "masks": [(11, torch.zeros(1, 4, 3, 5))],
}


@pytest.mark.parametrize("name", WRONG)
def test_tensors_that_do_not_fit_are_named(name):
    for place, value in WRONG[name]:
        call = arguments(CELLS["lstm"](), requires_grad=False)
        call[place] = value
        # a wrong width is that of the weights as much as that of x
        with pytest.raises(InputError, match=r"`(x|ih)`" if name == "x" else f"`{name}`"):
            torch.ops.recur.scan(*call)
        if isinstance(value, Tensor) and value.dtype == torch.float32 and name != "masks":
            call = [v.requires_grad_() if isinstance(v, Tensor) and v.is_floating_point() else v for v in call]
            with pytest.raises(InputError):
                torch.ops.recur.scan(*call)


def test_a_backward_of_tensors_that_do_not_fit_is_refused():
    call = arguments(CELLS["lstm"](), requires_grad=False, keep=True)
    y, _, _, *kept = torch.ops.recur.scan(*call)
    right = [*call[:14], y, kept, torch.ones_like(y), [None, None], [], True, True]
    torch.ops.recur.scan_backward(*right)
    small = torch.zeros(4, 3, 4)
    wrong = [(14, small), (15, kept[:-1]), (15, [k[:-1] for k in kept]), (16, small), (17, [None]), (18, [small])]
    for place, value in [*wrong, (17, [None, torch.zeros(3, 4)]), (9, LONG), (1, torch.zeros(4, 2, 2))]:
        with pytest.raises(InputError, match="must be"):
            torch.ops.recur.scan_backward(*(value if at == place else v for at, v in enumerate(right)))


def test_tensors_may_begin_anywhere():
    def moved(value):
        if not isinstance(value, Tensor):
            return [moved(v) for v in value] if isinstance(value, list) else value
        room = torch.empty(value.numel() + 3, dtype=value.dtype)
        return room[3:].view(value.shape).copy_(value)

    call = arguments(Masked(), requires_grad=False, keep=True, lengths=torch.tensor([4, 0, 2]))
    y, h, *kept = torch.ops.recur.scan(*call)
    elsewhere = moved(call)
    assert all(map(torch.equal, torch.ops.recur.scan(*elsewhere)[:2], (y, h)))
    more = [y, kept, torch.randn(4, 3, 5), [torch.randn(3, 5)], [], True, True]
    expected = torch.ops.recur.scan_backward(*call[:14], *more)
    assert all(map(torch.equal, torch.ops.recur.scan_backward(*elsewhere[:14], *moved(more)), expected))


# torch.compile


@every_layer
@ragged_or_not
def test_compiled_whole_with_one_node_for_each_layer_and_direction(name, lengths, allow_rnn):
    layer, graphs = LAYERS[name](), []

    def backend(graph, inputs):
        nodes = [node for node in graph.graph.nodes if "recur" in str(node.target)]
        graphs.append([node.target for node in nodes])
        # a graph that torch.compile has on disk is for this recur and this processor
        assert {node.args[-1] for node in nodes} == {f"{recur.__version__} {host().vector_bytes}"}
        return torch._dynamo.backends.debugging.aot_eager(graph, inputs)

    x = torch.randn(5, 3, 4)
    run = torch.compile(layer, fullgraph=True, backend=backend)
    assert close(solved(layer, x, lengths, run), solved(layer, x, lengths))
    with torch.no_grad():
        assert close(run(x, **given(lengths)), layer(x, **given(lengths)))
    scans = {"LSTM": 4, "own": 2}.get(name, 1)
    assert graphs == [[torch.ops.recur.scan.default] * scans] * 2


def test_compiled_with_other_sizes(allow_rnn):
    layer = LSTM(4, 6)
    run = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for steps, batch in ((5, 3), (7, 3), (6, 2), (9, 8), (1, 1)):
        x, lengths = torch.randn(steps, batch, 4), torch.randint(0, steps + 1, (batch,))
        assert close(solved(layer, x, lengths, run), solved(layer, x, lengths))


def test_compiled_layers_check_lengths_where_they_run(allow_rnn):
    run = torch.compile(GRU(4, 6), fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 3, 4)
    run(x, lengths=LENGTHS)
    for wrong in ([6, 0, 2], [5, -1, 2]):
        with pytest.raises(InputError, match=r"`lengths` must be in 0\.\.T = 0\.\.5, got (6|-1) in row (0|1)"):
            run(x, lengths=torch.tensor(wrong))


def test_a_compiled_layer_follows_its_cell(allow_rnn):
    layer, x = Recurrent(Leaky(), 4, 6), torch.randn(5, 3, 4)
    run = torch.compile(layer, fullgraph=True, backend="eager")
    for rate in (0.9, 0.5, 0.1, 0.3):
        layer.cell.rate = rate
        assert close(run(x), layer(x))
    layer.cell = Leaky(0.7)
    assert close(run(x), layer(x))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # of the compiler
def test_without_the_switch_a_model_is_compiled_around_the_layer():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(4, 4), recur.LastOutput(LSTM(4, 6)))
    x = torch.randn(5, 3, 4)
    assert close(torch.compile(model, backend="eager")(x), model(x))


@ragged_or_not
def test_the_reference_and_transforms_compile_too(lengths, allow_rnn):
    layer, x = Recurrent("gru-before", 4, 6, backend="reference"), torch.randn(5, 3, 4)
    run = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert close(solved(layer, x, lengths, run), solved(layer, x, lengths))
    layer.backend = "auto"

    def loss(x):
        return layer(x[:, None], **given(None if lengths is None else lengths[:1]))[0].pow(2).sum()

    each = vmap(grad(loss), in_dims=1)
    assert close(torch.compile(each, fullgraph=True, backend="eager")(x), each(x))


@pytest.mark.slow
@ragged_or_not
def test_compiled_by_inductor(lengths, allow_rnn):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.layer, self.after = nn.Linear(4, 4), LSTM(4, 6, bidirectional=True), nn.Linear(12, 3)

        def forward(self, x, **options):
            return self.after(self.layer(self.before(x).relu(), **options)[0]).tanh()

    model, x = Model(), torch.randn(5, 3, 4)
    run = torch.compile(model, fullgraph=True)
    assert close(solved(model, x, lengths, run), solved(model, x, lengths))


# torch.export and torch.jit.trace


class Last(nn.Module):
    """A layer's outputs, its states left out, whatever it calls them."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x, lengths=None):
        return self.layer(x, **given(lengths))[0]


# of torch's own
quiet = pytest.mark.filterwarnings("ignore:.*isinstance.*LeafSpec:FutureWarning")


@quiet
@every_layer
@pytest.mark.parametrize("strict", [False, True])
def test_exported(name, strict):
    model = Last(LAYERS[name]())
    steps, batch = torch.export.Dim("T", max=100), torch.export.Dim("B", max=100)
    sizes = ({0: steps, 1: batch}, {0: batch})
    exported = torch.export.export(model, (torch.randn(5, 3, 4), LENGTHS), dynamic_shapes=sizes, strict=strict)
    x, lengths = torch.randn(7, 2, 4), torch.tensor([1, 7])
    assert close(exported.module()(x, lengths), model(x, lengths))
    assert close(exported.run_decompositions().module()(x, lengths), model(x, lengths))
    with pytest.raises(InputError, match="`lengths`"):
        exported.module()(x, lengths + 1)


@quiet
def test_an_exported_program_runs_in_another_process(tmp_path):
    # with a cell that is known here alone
    layer, x = Recurrent(Leaky(), 4, 6), torch.randn(5, 3, 4)
    for name, model in (("layer", layer), ("last", Last(layer))):
        torch.export.save(torch.export.export(model, (x,)), tmp_path / f"{name}.pt2")
    output, state = layer(x)
    torch.save((x, output, state.h), tmp_path / "numbers")
    code = f"""
import pathlib, sys, recur.scan, torch
folder = pathlib.Path({str(tmp_path)!r})
x, output, h = torch.load(folder / "numbers")
found = torch.export.load(folder / "last.pt2").module()(x)
assert torch.allclose(found, output, atol=1e-6)
assert "recur.layers" not in sys.modules
import recur.layers
found = torch.export.load(folder / "layer.pt2").module()(x)
assert torch.allclose(found.output, output, atol=1e-6) and torch.allclose(found.state.h, h, atol=1e-6)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr


@pytest.mark.parametrize("name", CALLS)
def test_the_operator_runs_where_there_is_no_machine_code(name, monkeypatch):
    cell, options = CALLS[name]
    call = arguments(cell, requires_grad=False, **options)
    expected = torch.ops.recur.scan(*call)
    monkeypatch.setattr(machine, "available", lambda: "not here")
    assert close(torch.ops.recur.scan(*call), expected)


def test_import_leaves_the_compiler_of_torch_alone():
    code = "import sys, recur.layers; sys.exit('torch._dynamo' in sys.modules)"
    assert not subprocess.run([sys.executable, "-c", code]).returncode


@every_layer
def test_traced(name):
    model, x = Last(LAYERS[name]()), torch.randn(5, 3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a check of sizes is left out
        traced = torch.jit.trace(model, (x, LENGTHS))
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        traced = torch.jit.load(file)
    x, lengths = torch.randn(7, 2, 4, requires_grad=True), torch.tensor([1, 7])
    assert close(traced(x, lengths), model(x, lengths))
    assert close(*(torch.autograd.grad(run(x, lengths).pow(2).sum(), x) for run in (traced, model)))


# torch.func and autograd


def loss(layer: nn.Module, weights: dict[str, Tensor], x: Tensor, lengths: Tensor | None) -> Tensor:
    """That of one row."""
    output, *_ = functional_call(layer, weights, (x[:, None],), given(None if lengths is None else lengths[None]))
    return output.pow(2).sum()


@every_layer
@ragged_or_not
def test_gradients_per_row(name, lengths):
    layer, x = LAYERS[name](), torch.randn(5, 3, 4)
    weights = {key: value.detach() for key, value in layer.named_parameters()}
    each = vmap(grad(lambda *a: loss(layer, *a)), in_dims=(None, 1, None if lengths is None else 0))
    found = each(weights, x, lengths)
    for row in range(3):
        layer.zero_grad()
        loss(layer, dict(layer.named_parameters()), x[:, row], None if lengths is None else lengths[row]).backward()
        for key, parameter in layer.named_parameters():
            assert close(found[key][row], parameter.grad)


@every_layer
@ragged_or_not
def test_an_ensemble(name, lengths):
    layers, x = [LAYERS[name]() for _ in range(3)], torch.randn(5, 3, 4)
    weights, buffers = stack_module_state(layers)
    base = copy.deepcopy(layers[0]).to("meta")

    def run(weights, buffers):
        return flat(functional_call(base, (weights, buffers), (x,), given(lengths)))

    found = vmap(run)(weights, buffers)
    for number, layer in enumerate(layers):
        assert close([value[number] for value in found], layer(x, **given(lengths)))


@every_layer
@ragged_or_not
def test_tangents(name, lengths):
    layer, (x, t) = LAYERS[name](dtype=torch.float64), torch.randn(2, 5, 3, 4, dtype=torch.float64)

    def run(x):
        return flat(layer(x, **given(lengths)))

    values, tangents = jvp(run, (x,), (t,))
    step = 1e-6
    differences = [(a - b) / (2 * step) for a, b in zip(run(x + step * t), run(x - step * t), strict=True)]
    assert close(values, run(x))
    assert close(tangents, differences, 1e-8)
    with forward_ad.dual_level():
        found = run(forward_ad.make_dual(x, t))
        assert close([forward_ad.unpack_dual(value).tangent for value in found], tangents)
        # none of these has a tangent
        assert layer(x, **given(lengths))[0].grad_fn is not None
        assert close(run(x), values)


@pytest.mark.parametrize("name", ["gru-before", "own"])
def test_jacobians_and_hessians(name):
    layer, x = LAYERS[name](dtype=torch.float64), torch.randn(2, 1, 4, dtype=torch.float64)

    def run(x):
        return layer(x)[0]

    def total(x):
        return run(x).pow(2).sum()

    functional = torch.autograd.functional
    expected = functional.jacobian(run, x)
    assert close(jacrev(run)(x), expected)
    assert close(jacfwd(run)(x), expected)
    assert close(functional.jacobian(run, x, vectorize=True), expected)
    assert close(functional.jacobian(run, x, vectorize=True, strategy="forward-mode"), expected)
    assert close(hessian(total)(x), functional.hessian(total, x))
    # gradients in several directions at once
    y, directions = run(x.requires_grad_()), torch.randn(4, *expected.shape[:3], dtype=torch.float64)
    (found,) = torch.autograd.grad(y, x, directions, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(y, x, direction, retain_graph=True)[0] for direction in directions]
    assert not found.requires_grad
    assert close(found, torch.stack(each))
    assert close(vmap(lambda d: torch.autograd.grad(y, x, d, retain_graph=True)[0])(directions), found)


@every_layer
@ragged_or_not
def test_gradcheck_to_second_order(name, lengths):
    layer = LAYERS[name](dtype=torch.float64)
    names = [key for key, _ in layer.named_parameters()]

    def run(x, *weights):
        return tuple(flat(functional_call(layer, dict(zip(names, weights, strict=True)), (x,), given(lengths))))

    inputs = (torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True), *layer.parameters())
    assert gradcheck(run, inputs, fast_mode=True, check_batched_grad=True, check_forward_ad=True)
    assert gradgradcheck(run, inputs, fast_mode=True)


@ragged_or_not
def test_gradcheck_to_second_order_through_all_states(lengths):
    p = problem(CELLS["lstm"](), 3, 3, 2, 4)
    lengths = None if lengths is None else lengths.clamp(max=3)

    def run(x, h, c, *weights):
        options = {"states": True, "reverse": True}
        found = recur.scan.scan(p.cell, x, recur.scan.Weights(*weights), State(h=h, c=c), lengths, **options)
        return (*found.state, *found.states)

    weights = [None if w is None else w.requires_grad_() for w in p.weights]
    inputs = (p.x.requires_grad_(), *(value.requires_grad_() for value in p.state), *weights)
    assert gradcheck(run, inputs, fast_mode=True)
    assert gradgradcheck(run, inputs, fast_mode=True)


@every_layer
def test_gradient_penalty(name):
    layer, found = LAYERS[name](), []
    x = torch.randn(5, 3, 4, requires_grad=True)
    for backend in ("auto", "reference"):
        layer.zero_grad()
        layer.backend = backend
        (slope,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
        (slope.norm(dim=-1) - 1).pow(2).mean().backward()
        found.append([parameter.grad.clone() for parameter in layer.parameters()])
    assert close(*found)


@quiet
def test_the_operator_itself_is_transformed():
    # as in an exported program, which knows nothing of layers
    layer, x = Recurrent("gru-before", 4, 6), torch.randn(5, 3, 4)
    exported = torch.export.export(layer, (x,)).module()
    many = torch.randn(4, 5, 3, 4)

    def loss(run):
        return lambda x: run(x)[0].pow(2).sum()

    each = []
    for run in (exported, layer):
        found = [
            grad(loss(run))(x),
            grad(lambda x: grad(loss(run))(x).pow(2).sum())(x),  # noqa: B023
            *jvp(loss(run), (x,), (torch.ones_like(x),)),
            vmap(lambda x: run(x)[0])(many),  # noqa: B023
            vmap(grad(loss(run)))(many),
        ]
        with forward_ad.dual_level():
            found.append(forward_ad.unpack_dual(loss(run)(forward_ad.make_dual(x, torch.ones_like(x)))).tangent)
        each.append(found)
    assert close(*each, 1e-4)


def test_masks_get_their_gradient():
    p = problem(Masked(), 4, 3, 2, 5)
    masks = p.masks.clone().requires_grad_()

    def run(backend):
        output = recur.scan.scan(p.cell, p.x, p.weights, p.state, masks=masks, backend=backend).output
        return torch.autograd.grad(output.sum(), masks)

    assert close(run("auto"), run("reference"))
    call = arguments(Masked())
    call[11] = call[11].requires_grad_()
    with pytest.raises(InputError, match="`masks` get no gradient"):
        torch.ops.recur.scan(*call)


# modes and habits


@every_layer
@ragged_or_not
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_autocast(name, lengths, backend):
    layer, x = LAYERS[name](), torch.randn(5, 3, 4)
    expected = solved(layer, x, lengths)
    layer.backend = backend
    for input in (x, x.bfloat16()):

        def run(x, **options):
            with torch.autocast("cpu", torch.bfloat16):
                return layer(x.to(input.dtype), **options)  # noqa: B023

        found = solved(layer, x, lengths, run)
        # of the weights' type, whatever that of the input
        assert {value.dtype for value in found} == {torch.float32}
        assert close(found, expected, 0.1)


def test_gradients_where_they_are_wanted(monkeypatch):
    wanted = []
    backward = kernel.backward

    def spy(*arguments, **options):
        wanted.append((options["need_x"], options["need_weights"]))
        return backward(*arguments, **options)

    monkeypatch.setattr(kernel, "backward", spy)
    for which, (need_x, need_weights) in {"x": (1, 0), "state": (0, 0), "weights": (0, 1), "bias": (0, 1)}.items():
        found = []
        layer = LSTM(4, 6)
        for backend in ("auto", "reference"):
            layer.backend = backend
            for name, parameter in layer.named_parameters():
                parameter.requires_grad_(which == "weights" or (which == "bias" and name == "bias_hh_l0"))
                parameter.grad = None
            x = torch.ones(5, 3, 4).requires_grad_(which == "x")
            h, c = (torch.full((1, 3, 6), 0.3).requires_grad_(which == "state") for _ in "hc")
            output, (_, cell) = layer(x, (h, c), lengths=LENGTHS)
            (output.sum() + cell.pow(2).sum()).backward()
            found.append([value.grad for value in (x, h, c, *layer.parameters())])
        assert wanted.pop() == (bool(need_x), bool(need_weights))
        assert not wanted
        assert [value is None for value in found[0]] == [value is None for value in found[1]]
        assert close(*([value for value in values if value is not None] for values in found))


def test_a_graph_is_walked_as_often_as_asked():
    layer, x = LSTM(4, 6), torch.randn(5, 3, 4, requires_grad=True)
    unused = torch.zeros(1, requires_grad=True)
    total = layer(x)[0].sum()
    first = torch.autograd.grad(total, [x, unused], allow_unused=True, retain_graph=True)
    assert first[1] is None
    total.backward(retain_graph=True)
    total.backward()
    assert torch.equal(x.grad, 2 * first[0])
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


@pytest.mark.parametrize("what", ["x", "weight", "output", "state", "lengths", "resets"])
def test_changes_in_place_before_the_backward_are_noticed(what):
    layer, x, lengths, resets = LSTM(4, 6), torch.randn(5, 3, 4), LENGTHS.clone(), torch.zeros(5, 3, dtype=torch.bool)
    h, c = torch.zeros(2, 1, 3, 6)
    output, _ = layer(x, (h, c), lengths=lengths, resets=resets)
    changed = {"x": x, "weight": layer.weight_hh_l0.detach(), "output": output, "state": h}
    changed |= {"lengths": lengths, "resets": resets}
    changed[what].add_(1) if what != "resets" else resets.logical_not_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("steps", [5, 400])
def test_outputs_may_be_changed_in_place(steps):
    layer, x = GRU(4, 64), torch.randn(steps, 16, 4)
    found = solved(layer, x, run=lambda x: [value.clone().mul_(2) for value in layer(x)])
    with torch.no_grad():
        output, h = layer(x)
        assert close([output.mul_(2), h.mul_(2)], found[:2])
    _, h = layer(x)
    h.mul_(2).sum().backward()


def test_inference_mode():
    layer, x = LSTM(4, 6), torch.randn(5, 3, 4)
    with torch.inference_mode():
        y = torch.randn(5, 3, 4)
        found = layer(x)[0]
        assert found.is_inference()
        assert close(found, layer(x)[0])
        expected = layer(y)[0]
        theirs = LSTM(4, 6)
        before = theirs(x)[0]
        for parameter in theirs.parameters():
            parameter.mul_(2)
        after = theirs(x)[0]
        assert not close(after, before)
        theirs.backend = "reference"
        assert close(after, theirs(x)[0])
    assert close(found, layer(x)[0])
    with torch.no_grad():
        assert close(layer(y)[0], expected)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        layer(y)


@every_layer
def test_checkpoint_and_saved_tensor_hooks(name):
    layer, x = LAYERS[name](), torch.randn(5, 3, 4)
    expected = solved(layer, x, LENGTHS)
    for reentrant in (False, True):

        def run(x, **options):
            return checkpoint(lambda x: tuple(flat(layer(x, **options))), x, use_reentrant=reentrant)  # noqa: B023

        assert all(map(torch.equal, solved(layer, x, LENGTHS, run), expected))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().numpy().copy(), torch.from_numpy):
        assert all(map(torch.equal, solved(layer, x, LENGTHS), expected))


def test_hooks_and_anomalies():
    layer, seen = LSTM(4, 6), []
    layer.register_forward_pre_hook(lambda module, given: (2 * given[0],))
    layer.register_forward_hook(lambda module, given, found: seen.append("forward"))
    layer.register_full_backward_hook(lambda module, given, found: seen.append("backward"))
    layer.weight_ih_l0.register_hook(lambda gradient: seen.append("weight"))
    x = torch.randn(5, 3, 4, requires_grad=True)
    output, _ = layer(x)
    output.register_hook(lambda gradient: seen.append("output"))
    output.sum().backward()
    assert sorted(seen) == ["backward", "forward", "output", "weight"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly():
            layer(x)[0].sum().backward()
            with pytest.raises(RuntimeError, match="returned nan"):
                (layer(x)[0] * torch.nan).sum().backward()


@every_layer
def test_copies_and_pickles(name):
    layer, x = LAYERS[name](), torch.randn(5, 3, 4)
    expected = solved(layer, x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert all(map(torch.equal, solved(other, x), expected))
    with pytest.raises(AttributeError):
        copy.copy(Named.__new__(Named)).h  # noqa: B018


@every_layer
@ragged_or_not
def test_shapes_without_numbers(name, lengths):
    layer, x = LAYERS[name](), torch.randn(5, 3, 4)
    expected = [value.shape for value in flat(layer(x, **given(lengths)))]
    there = {} if lengths is None else {"lengths": lengths.to("meta")}
    found = copy.deepcopy(layer).to("meta")(x.to("meta"), **there)
    assert [value.shape for value in flat(found)] == expected
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        found = flat(layer(torch.randn(5, 3, 4), **given(lengths)))
        sum(value.sum() for value in found).backward()
    assert [value.shape for value in found] == expected


@every_layer
@ragged_or_not
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_floats(name, lengths, dtype):
    layer, x = LAYERS[name](), torch.randn(5, 3, 4)
    expected = solved(layer, x, lengths)
    found = solved(layer.to(dtype), x.to(dtype), lengths)
    assert {value.dtype for value in found} == {dtype}
    assert close([value.float() for value in found], expected, 0.1)


@every_layer
def test_any_layout(name):
    layer = LAYERS[name]()
    other = copy.deepcopy(layer)
    other.backend = "reference"
    for x in (
        torch.randn(4, 3, 5).permute(2, 1, 0),
        torch.randn(1, 1, 4).expand(5, 3, 4),
        torch.randn(5, 3, 1).expand(5, 3, 4),
        torch.randn(10, 6, 8)[::2, ::2, ::2],
        torch.randn(1, 3, 4),
        torch.randn(5, 0, 4),
        torch.randn(5, 3, 4, dtype=torch.complex64).conj().imag,
    ):
        kept = x.detach().requires_grad_()
        for a, b in zip(flat(layer(kept)), flat(other(kept)), strict=True):
            assert close(a, b)
            cotangent = torch.randn(a.shape[::-1]).permute(2, 1, 0)
            assert close(*(torch.autograd.grad(v, kept, cotangent, retain_graph=True) for v in (a, b)), 1e-4)
    for module in (layer, other):
        for key, parameter in list(module.named_parameters()):
            spread = torch.linspace(-1, 1, parameter.numel()).view(parameter.shape[::-1])
            setattr(module, key, nn.Parameter(spread.t() if spread.dim() == 2 else spread.repeat_interleave(2)[::2]))
    assert close(solved(layer, x), solved(other, x), 1e-4)


def test_what_listens_hears_the_operator():
    class Sub(Tensor):
        pass

    layer, x = LSTM(4, 6), torch.randn(5, 3, 4)
    assert type(layer(x.as_subclass(Sub))[0]) is Sub
    with torch.profiler.profile() as profile:
        layer(x)
    assert "recur::scan" in {event.key for event in profile.key_averages()}
    with torch.device("meta"):
        found = layer(x, lengths=[5, 0, 2])[0]
    assert close(found, layer(x, lengths=[5, 0, 2])[0])
