"""The linear map on oneDNN against torch.nn's, whatever the processor."""

import pytest
import torch
from torch import nn

from recur.layers import linear
from recur.layers.linear import Linear

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="torch was built without oneDNN",
)


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Run every product on oneDNN, and count them."""
    monkeypatch.setattr(linear, "_slow_blas", lambda: True)
    monkeypatch.setattr(linear, "LARGE", 1)
    counted: list[int] = []
    apply = linear._Product.apply
    monkeypatch.setattr(linear._Product, "apply", lambda *given: (counted.append(1), apply(*given))[1])
    return counted


def pair(inputs: int, outputs: int, bias: bool = True) -> tuple[Linear, nn.Linear]:
    ours, theirs = Linear(inputs, outputs, bias), nn.Linear(inputs, outputs, bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 3), (7, 3), (2, 5, 3), (3,)], ids=str)
def test_results_and_gradients_are_torchs(onednn: list[int], shape: tuple[int, ...], bias: bool) -> None:
    ours, theirs = pair(3, 17, bias)
    x = torch.randn(shape, requires_grad=True)
    y = ours(x)
    torch.testing.assert_close(y, theirs(x))
    d = torch.randn(y.shape)
    found = torch.autograd.grad(y, [x, *ours.parameters()], d)
    torch.testing.assert_close(found, torch.autograd.grad(theirs(x), [x, *theirs.parameters()], d))
    assert len(onednn) == 1


def test_only_what_is_asked_for_is_computed(onednn: list[int]) -> None:
    ours, theirs = pair(4, 6)
    x = torch.randn(5, 4, requires_grad=True)
    torch.testing.assert_close(torch.autograd.grad(ours(x).sum(), x), torch.autograd.grad(theirs(x).sum(), x))
    ours.weight.requires_grad_(False)
    ours(torch.randn(5, 4)).sum().backward()
    assert ours.weight.grad is None
    torch.testing.assert_close(ours.bias.grad, torch.full((6,), 5.0))
    with torch.no_grad():
        assert not ours(x).requires_grad


def test_strided_inputs_gradients_and_weights_are_read_right(onednn: list[int]) -> None:
    ours, theirs = pair(4, 6)
    x = torch.randn(4, 10).t()
    d = torch.randn(6, 10).t()
    weights = [ours.weight, theirs.weight]
    for one, other in zip(
        torch.autograd.grad(ours(x), weights[:1], d), torch.autograd.grad(theirs(x), weights[1:], d), strict=True
    ):
        torch.testing.assert_close(one, other)
    expanded = torch.ones(()).expand(10, 6)
    torch.testing.assert_close(
        torch.autograd.grad(ours(x), ours.weight, expanded), torch.autograd.grad(theirs(x), theirs.weight, expanded)
    )


def test_gradients_of_gradients_are_torchs(onednn: list[int]) -> None:
    ours, theirs = pair(3, 4)
    x = torch.randn(5, 3, requires_grad=True)

    def second(layer: nn.Linear) -> tuple[torch.Tensor, ...]:
        (first,) = torch.autograd.grad(layer(x).tanh().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, layer.weight])

    torch.testing.assert_close(second(ours), second(theirs))


def test_several_gradients_at_once_and_transforms_work(onednn: list[int]) -> None:
    ours, theirs = pair(3, 4)
    x = torch.randn(5, 3, requires_grad=True)
    several = torch.randn(6, 5, 4)
    one, other = (torch.autograd.grad(layer(x), x, several, is_grads_batched=True) for layer in (ours, theirs))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(torch.func.jacrev(ours)(x.detach()), torch.func.jacrev(theirs)(x.detach()))
    torch.testing.assert_close(torch.func.jacfwd(ours)(x.detach()), torch.func.jacfwd(theirs)(x.detach()))


def test_other_types_are_left_to_torch(onednn: list[int]) -> None:
    ours, theirs = pair(3, 4)
    x = torch.randn(5, 3)
    assert torch.equal(ours.double()(x.double()), theirs.double()(x.double()))
    with torch.autocast("cpu", torch.bfloat16):
        assert ours.float()(x).dtype == torch.bfloat16
    assert not onednn
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        ours(torch.randn(5, 2))


def test_small_products_are_left_to_torch(onednn: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "LARGE", 1000)
    ours, theirs = pair(3, 4)
    x = torch.randn(5, 3)
    assert torch.equal(ours(x), theirs(x))
    assert not onednn


def test_a_tied_weight_gets_both_gradients(onednn: list[int]) -> None:
    table, ours = nn.Embedding(9, 4), Linear(4, 9)
    ours.weight = table.weight
    ids = torch.tensor([1, 5, 5])
    ours(table(ids)).square().sum().backward()
    found = table.weight.grad.clone()
    table.weight.grad = None
    nn.functional.linear(table(ids), table.weight, ours.bias).square().sum().backward()
    torch.testing.assert_close(found, table.weight.grad)


def test_a_product_takes_transposed_views(onednn: list[int]) -> None:
    x, weight = torch.randn(5, 7).t(), torch.randn(5, 9).t()
    torch.testing.assert_close(linear.product(x, weight), x @ weight.t())


def test_the_same_call_has_the_same_bits(onednn: list[int]) -> None:
    ours, _ = pair(30, 70)
    x = torch.randn(50, 30)
    assert torch.equal(ours(x), ours(x))
