import math

import pytest
import torch
from torch import nn

from recur.errors import InputError
from recur.gradients import clip_by_global_norm, clip_by_norm, clip_by_value, nonfinite_gradients


def named(*gradients):
    """Parameters a, b, ... with the gradients given."""
    pairs = []
    for name, gradient in zip("abcd", gradients, strict=False):
        parameter = nn.Parameter(torch.zeros(gradient.shape))
        parameter.grad = gradient.clone()
        pairs.append((name, parameter))
    return pairs


def sparse(rows, values, size):
    return torch.sparse_coo_tensor(
        torch.tensor([rows]), torch.tensor(values), (size, len(values[0])), check_invariants=True
    )


def test_by_value_bounds_every_entry_and_counts_the_tensors():
    pairs = named(torch.tensor([3.0, -4.0, 0.5]), torch.tensor([0.1]))
    assert clip_by_value(pairs, 1.0) == 1
    assert pairs[0][1].grad.tolist() == [1.0, -1.0, 0.5]
    assert pairs[1][1].grad.tolist() == pytest.approx([0.1])


def test_by_norm_scales_each_tensor_by_itself():
    pairs = named(torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4]))
    assert clip_by_norm(pairs, 1.0) == 1
    assert pairs[0][1].grad.tolist() == pytest.approx([0.6, 0.8])
    assert pairs[1][1].grad.tolist() == pytest.approx([0.3, 0.4])


def test_by_global_norm_keeps_the_direction():
    pairs = named(torch.tensor([3.0]), torch.tensor([[4.0]]))
    assert clip_by_global_norm(pairs, 1.0) == pytest.approx(5.0)
    assert [p.grad.item() for _, p in pairs] == pytest.approx([0.6, 0.8])
    assert clip_by_global_norm(pairs, 2.0) == pytest.approx(1.0)
    assert [p.grad.item() for _, p in pairs] == pytest.approx([0.6, 0.8])


def test_global_norm_agrees_with_torch():
    torch.manual_seed(0)
    ours, theirs = nn.LSTM(5, 7), nn.LSTM(5, 7)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, 5)
    for model in (ours, theirs):
        model(x)[0].square().sum().backward()
    before = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
    assert clip_by_global_norm(ours.named_parameters(), 0.1) == pytest.approx(float(before), rel=1e-6)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)


def test_sparse_rows_are_added_before_they_are_measured():
    # row 1 occurs twice: 2 + 2 = 4, which with row 3 makes the norm 5
    gradient = sparse([1, 3, 1], [[2.0], [3.0], [2.0]], 5)
    for clip, expected in ((clip_by_global_norm, [0.8, 0.6]), (clip_by_norm, [0.8, 0.6]), (clip_by_value, [1.0, 1.0])):
        pairs = named(gradient)
        clip(pairs, 1.0)
        dense = pairs[0][1].grad.to_dense().flatten()
        assert dense[[1, 3]].tolist() == pytest.approx(expected)
        assert dense[[0, 2, 4]].tolist() == [0, 0, 0]


def test_sparse_and_dense_share_one_global_norm():
    pairs = named(sparse([0], [[3.0]], 2), torch.tensor([4.0]))
    assert clip_by_global_norm(pairs, 1.0) == pytest.approx(5.0)
    assert pairs[0][1].grad.to_dense()[0].item() == pytest.approx(0.6)
    assert pairs[1][1].grad.item() == pytest.approx(0.8)


def test_large_finite_gradients_do_not_overflow():
    pairs = named(torch.tensor([3e30, 4e30]))
    assert clip_by_global_norm(pairs, 1.0) == pytest.approx(5e30)
    assert pairs[0][1].grad.tolist() == pytest.approx([0.6, 0.8])
    assert nonfinite_gradients(named(torch.full((4,), 3e38))) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nonfinite_gradients_are_named_and_nothing_is_changed(bad):
    pairs = named(torch.tensor([9.0]), torch.tensor([1.0, bad]), sparse([0], [[bad]], 2))
    assert nonfinite_gradients(pairs) == ["b", "c"]
    for clip in (clip_by_value, clip_by_norm, clip_by_global_norm):
        with pytest.raises(InputError, match="NaN or infinity in b, c; skip this step"):
            clip(pairs, 1.0)
        assert pairs[0][1].grad.item() == 9.0


@pytest.mark.parametrize("limit", [0, -1.0, math.nan, math.inf])
def test_a_limit_that_is_not_positive_is_refused(limit):
    for clip in (clip_by_value, clip_by_norm, clip_by_global_norm):
        with pytest.raises(InputError, match="must be greater than 0, got"):
            clip(named(torch.tensor([1.0])), limit)


def test_parameters_without_a_gradient_are_left_out():
    pairs = [*named(torch.tensor([2.0])), ("frozen", nn.Parameter(torch.ones(3)))]
    assert clip_by_norm(pairs, 1.0) == 1
    assert pairs[1][1].grad is None
