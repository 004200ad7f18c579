"""TTT-Linear: the dual form against the equations, pieces against the whole, rows alone, in a language model."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import recur
from recur import InputError, State, TTTLinear
from recur.app.main import main
from recur.layers.short_convolution import short_convolution
from recur.layers.ttt_scan import Models, Tokens, dual, normalized, reference
from recur.models.language import LanguageConfig, LanguageModel
from recur.tasks.generate.options import GenerateOptions

D, H, HEADS = 5, 8, 2


def layer(mini_batch=4, forget=True, dtype=torch.float64, **options) -> TTTLinear:
    torch.manual_seed(0)
    made = TTTLinear(D, H, heads=HEADS, mini_batch=mini_batch, forget=forget, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return made


def steps(T=13, B=3, dtype=torch.float64) -> Tensor:
    return torch.randn(T, B, D, dtype=dtype, generator=torch.Generator().manual_seed(1))


def close(a: State, b: State, **tolerance) -> None:
    for (name, left), right in zip(a.items(), b, strict=True):
        torch.testing.assert_close(left, right, msg=lambda m, name=name: f"{name}: {m}", **tolerance)


def test_a_step_is_autograds_gradient_of_the_loss():
    """One mini-batch of one token after the other, with the gradient that torch takes of the loss as it is written."""
    made = layer(mini_batch=1, forget=False)
    x = steps(T=5, B=1)
    size = H // HEADS
    u = F.layer_norm(x, (D,), made.norm.weight, made.norm.bias)
    before = torch.cat([torch.zeros(3, 1, D, dtype=x.dtype), u])
    c = F.silu(sum(before[place : place + 5] * made.convolution[place] for place in range(4)))

    def heads(part: Tensor) -> Tensor:
        return part[:, 0].unflatten(-1, (HEADS, size))

    q, k, v = heads(made.query(c)), heads(made.key(c)), heads(made.value(c))
    eta = made.rate(u)[:, 0].sigmoid() / size

    def f(key: Tensor, weight: Tensor, head: int) -> Tensor:
        said = key @ weight[:-1] + weight[-1]
        return key + F.layer_norm(said, (size,), made.scale[head], made.shift[head], eps=1e-6)

    z = torch.empty(5, 1, H, dtype=x.dtype)
    for head in range(HEADS):
        W = made.weight[head].detach()
        for t in range(5):
            W.requires_grad_()
            (gradient,) = torch.autograd.grad(0.5 * (f(k[t, head], W, head) - v[t, head]).square().sum(), W)
            W = (W - eta[t, head] * gradient).detach()
            z[t, 0, head * size : (head + 1) * size] = f(q[t, head], W, head)
    out = F.layer_norm(z, (H,), made.out_norm.weight, made.out_norm.bias)
    expected = made.out(out * F.gelu(made.gate(u), approximate="tanh"))
    torch.testing.assert_close(made(x).output, expected)


@pytest.mark.parametrize("sizes", [(4, 4, 3), (1,), (1, 1, 1), (3, 8)])
@pytest.mark.parametrize("states", [True, False])
def test_dual_is_the_reference_with_all_its_gradients(sizes, states):
    torch.manual_seed(0)
    T, M, size = sum(sizes), 3, 5

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    rate, keep = (torch.rand(*shape, dtype=torch.float64, requires_grad=True) for shape in ((T, M, 1), (M, 1, 1)))
    tokens = Tokens(draw(T, M, size), draw(T, M, size), draw(T, M, size), rate)
    models = Models(*(draw(M, size + 1, size) for _ in range(3)), keep)
    given = [*tokens, *models, draw(M, size), draw(M, size)]
    found = []
    for form in (dual, reference):
        result = form(tokens, models, *given[-2:], sizes)
        torch.manual_seed(1)
        loss = (result.told * torch.randn_like(result.told)).sum()
        if states:
            loss = loss + (result.weights * torch.randn_like(result.weights)).sum()
        gradients = torch.autograd.grad(loss, given, allow_unused=True)
        found.append(
            [*result, *(torch.zeros_like(g) if d is None else d for d, g in zip(gradients, given, strict=True))]
        )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mini_batch", [1, 3, 4, 16])
@pytest.mark.parametrize("forget", [True, False])
def test_backends_agree(mini_batch, forget):
    made, x = layer(mini_batch, forget), steps()
    ours = made(x)
    made.backend = "reference"
    theirs = made(x)
    torch.testing.assert_close(ours.output, theirs.output)
    close(ours.state, theirs.state)


def test_float32_is_near_float64():
    made, x = layer(), steps(T=40)
    expected = made(x)
    found = made.float()(x.float())
    torch.testing.assert_close(found.output, expected.output.float(), atol=2e-5, rtol=1e-4)
    close(found.state, expected.state.map(lambda v: v.float() if v.is_floating_point() else v), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("lengths", [None, [5, 2, 0]])
def test_gradcheck(lengths):
    made = layer(mini_batch=2)
    names, values = zip(*made.named_parameters(), strict=True)

    def run(x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        output, state = torch.func.functional_call(
            made, dict(zip(names, parameters, strict=True)), (x,), {"lengths": lengths}
        )
        return output, state.W, state.now, state.recent

    assert torch.autograd.gradcheck(run, (steps(T=5).requires_grad_(), *values), fast_mode=True)


@pytest.mark.parametrize("mini_batch", [1, 3, 4, 16])
@pytest.mark.parametrize("cut", [[1] * 13, [5, 8], [2, 4, 7], [4, 4, 5], [0, 13]])
def test_pieces_are_the_whole(mini_batch, cut):
    made, x = layer(mini_batch), steps()
    whole, state, outputs = made(x), None, []
    for piece in x.split(cut):
        output, state = made(piece, state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs), whole.output)
    close(state, whole.state)


@pytest.mark.parametrize("mini_batch", [1, 3, 4, 16])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_padded_rows_are_the_rows_alone_and_carry_on_out_of_step(mini_batch, padding):
    made, x = layer(mini_batch), steps()
    first, second = [13, 4, 0], [7, 13, 5]

    def valid(part: Tensor, row: int, length: int) -> Tensor:
        return part[:length, row : row + 1] if padding == "right" else part[13 - length :, row : row + 1]

    hidden = x.clone()
    hidden[: 5 if padding == "left" else None, 2] = math.nan
    one, state = made(hidden if padding == "right" else x, lengths=first, padding=padding)
    two, state = made(x, state, lengths=second, padding=padding)
    for row in range(3):
        alone = made(torch.cat([valid(x, row, first[row]), valid(x, row, second[row])]))
        found = torch.cat([valid(one, row, first[row]), valid(two, row, second[row])])
        torch.testing.assert_close(found, alone.output)
        rows = {
            name: value[:, row : row + 1] if name == "recent" else value[row : row + 1] for name, value in state.items()
        }
        close(State(**rows), alone.state)
    assert not one[:, 2].any()
    assert (one[4:, 1] if padding == "right" else one[:-4, 1]).count_nonzero() == 0


@pytest.mark.parametrize("lengths", [[0, 0, 0], None])
def test_no_steps_change_nothing(lengths):
    made = layer()
    _, state = made(steps(T=3))
    output, after = made(steps(T=2 if lengths else 0), state, lengths=lengths)
    assert output.shape == (2 if lengths else 0, 3, H)
    assert not output.any()
    close(after, state)
    assert made(steps(B=0)).output.shape == (13, 0, H)


def test_gradients_of_pieces_are_those_of_the_whole():
    made, x = layer(), steps()
    weights = list(made.parameters())
    whole = torch.autograd.grad(made(x).output.square().sum(), weights)
    first, state = made(x[:6])
    second, _ = made(x[6:], state)
    pieces = torch.autograd.grad(first.square().sum() + second.square().sum(), weights)
    torch.testing.assert_close(pieces, whole)


def test_stream_and_batch_first():
    made, x = layer(), steps()
    output, state = made(x)
    stream = made.stream(3)
    torch.testing.assert_close(torch.stack([stream.step(one) for one in x]), output.detach())
    close(stream.state, state.map(torch.Tensor.detach))
    stream.reset([1])
    torch.testing.assert_close(stream.step(x[0])[1], output[0, 1].detach())
    assert stream.state.place.tolist() == [2, 1, 2]
    made.batch_first = True
    torch.testing.assert_close(made(x.transpose(0, 1)).output, output.transpose(0, 1))
    stream.reset()
    torch.testing.assert_close(stream.steps(x.transpose(0, 1)), output.transpose(0, 1).detach())


@pytest.mark.parametrize(("rate", "low", "high"), [(0.1, 0.0, 0.4), (0.0, 0.999, 1.001)])
def test_the_error_falls_while_it_reads_and_only_by_steps(rate, low, high):
    torch.manual_seed(0)
    T, M, size = 64, 2, 6
    key, value = (torch.randn(4, M, size).repeat(T // 4, 1, 1) for _ in range(2))
    weight = 0.1 * torch.randn(M, size + 1, size)
    tokens = Tokens(key, key, value, torch.full((T, M, 1), rate))
    models = Models(weight, weight, weight, torch.ones(M, 1, 1))
    told = dual(tokens, models, torch.ones(M, size), torch.zeros(M, size), [4] * (T // 4)).told
    first = key + normalized((key[:, :, None] @ weight[:, :-1])[:, :, 0] + weight[:, -1])
    share = (told - value)[-4:].square().mean() / (first - value).square().mean()
    assert low <= share < high


def test_forgetting_leads_back_to_the_learned_weights():
    made = layer(mini_batch=4)
    with torch.no_grad():
        made.keep.fill_(-20)
    _, state = made(steps(T=4))
    start = made(steps(T=5), None)[1]
    # the fifth step begins a mini-batch, from W_0
    torch.testing.assert_close(start.W, made.weight.expand_as(start.W))
    assert not torch.allclose(state.now, made.weight.expand_as(state.now))


def test_short_convolution_is_torchs():
    torch.manual_seed(0)
    x, w = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((9, 2, 3), (4, 3)))
    expected = F.conv1d(x.permute(1, 2, 0), w.T[:, None], groups=3).permute(2, 0, 1)
    found = short_convolution(x, w)
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn_like(found)
    torch.testing.assert_close(
        torch.autograd.grad(found, (x, w), cotangent), torch.autograd.grad(expected, (x, w), cotangent)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "`heads` must divide `hidden_size` into at least 2 features each, got 3 of 8"),
        ({"heads": 8}, "`heads` must divide"),
        ({"mini_batch": 0}, "`mini_batch` must be a whole number above 0, got 0"),
        ({"backend": "fast"}, "`backend` must be one of dual, reference, got 'fast'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        TTTLinear(D, H, **{"heads": 2} | options)


def test_bad_calls():
    made, x = layer(), steps()
    with pytest.raises(InputError, match=r"`input` must be \[T, B, D\] with D = 5, got \[13, 3, 4\]"):
        made(x[..., :4])
    with pytest.raises(InputError, match=r"`lengths` must be in 0..T = 0..13, got 14 in row 1"):
        made(x, lengths=[1, 14, 2])
    with pytest.raises(InputError, match=r"`state.W` must have shape \[3, 2, 5, 4\], got \[2, 2, 5, 4\]"):
        made(x, made.initial(2))
    with pytest.raises(InputError, match=r"`state` must be State\(W=..., now=..., place=..., recent=...\), got Tensor"):
        made(x, x)
    x[3, 1, 2] = math.nan
    with pytest.raises(InputError, match="got NaN in row 1, step 3, feature 2"):
        made(x)
    with pytest.raises(InputError, match=r"`x` must be \[B, D\] = \[2, 5\], got \[3, 5\]"):
        made.stream(2).step(x[0])
    with pytest.raises(InputError, match="`batch` must be a whole number above 0, got 0"):
        made.stream(0)


def test_gradient_flow_refuses_it():
    with pytest.raises(InputError, match=r"vectors, got 1, a TTTLinear, whose state is 2 matrices \[5, 4\]"):
        recur.gradient_flow(torch.nn.Sequential(torch.nn.Identity(), layer()), steps())


def test_a_language_model_carries_and_streams_it():
    torch.manual_seed(0)
    config = LanguageConfig(
        vocabulary_size=20, cell="ttt", layers=2, hidden_size=8, heads=2, mini_batch=4, residual=True
    )
    model = LanguageModel(config).double().eval()
    tokens = torch.randint(1, 20, (2, 11))
    whole = model(tokens)
    first = model(tokens[:, :5])
    second = model(tokens[:, 5:], first.state)
    torch.testing.assert_close(torch.cat([first.hidden, second.hidden], 1), whole.hidden)
    stream = model.stream(2)
    scores = torch.stack([stream.step(one) for one in tokens.T], 1)
    torch.testing.assert_close(scores, model.scores(whole.hidden).detach())
    for name, value in (("forget_bias", 1.0), ("zoneout", 0.1), ("initialisation", "orthogonal")):
        with pytest.raises(InputError, match=f"{name} needs a cell of `recur.cells`, got ttt; leave it out"):
            LanguageConfig(vocabulary_size=20, cell="ttt", **{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forget_bias": 1.0}, "--forget-bias needs a cell of `recur.cells`, got ttt; leave it out"),
        ({"heads": 7}, "--heads must divide --hidden-size 256 into at least 2 features each, got 7"),
        ({"heads": 0}, "--heads must divide"),
        ({"mini_batch": 0}, "--mini-batch must be at least 1, got 0"),
    ],
)
def test_flags_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        GenerateOptions(train="x", cell=("lstm", "ttt"), **options).check()


def test_tasks_with_bidirectional_or_padded_networks_refuse_it(capsys):
    assert main(["train", "classify", "--train", "x.csv", "--cell", "ttt"]) == 2
    assert "--cell must be one of rnn, " in capsys.readouterr().err
