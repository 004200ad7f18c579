"""From the outputs of every step to one vector per row."""

import pytest
import torch

from recur.errors import InputError
from recur.layers.pooling import POOLINGS, pool, pooled_size

OUTPUT = torch.tensor([[[1.0, -5.0], [2.0, -3.0], [6.0, -4.0]], [[7.0, 8.0], [99.0, 99.0], [99.0, 99.0]]])
LENGTHS = torch.tensor([3, 1])


@pytest.mark.parametrize(
    ("how", "directions", "expected"),
    [
        ("last", 1, [[6, -4], [7, 8]]),
        ("last", 2, [[6, -5], [7, 8]]),
        ("mean", 1, [[3, -4], [7, 8]]),
        ("max", 2, [[6, -3], [7, 8]]),
        ("concat", 2, [[6, -5, 3, -4, 6, -3], [7, 8, 7, 8, 7, 8]]),
    ],
)
def test_pooling_by_hand(how: str, directions: int, expected: list[list[float]]) -> None:
    assert pool(OUTPUT, LENGTHS, how, directions).tolist() == expected


@pytest.mark.parametrize("how", POOLINGS)
@pytest.mark.parametrize("directions", [1, 2])
def test_a_row_in_a_batch_is_the_row_alone(how: str, directions: int) -> None:
    torch.manual_seed(0)
    output, lengths = torch.randn(6, 9, 4), torch.tensor([9, 1, 0, 5, 8, 2])
    # what lies behind a row's end is never read
    behind = torch.arange(9) >= lengths[:, None]
    output[behind] = torch.nan
    pooled = pool(output, lengths, how, directions)
    assert pooled.shape == (6, pooled_size(4 // directions, how, directions))
    for row, length in enumerate(lengths.tolist()):
        alone = pool(output[row : row + 1, :length], lengths[row : row + 1], how, directions)
        torch.testing.assert_close(pooled[row : row + 1], alone)
    assert not pooled[2].any()


@pytest.mark.parametrize("how", POOLINGS)
@pytest.mark.parametrize("directions", [1, 2])
def test_gradients_are_right_also_for_empty_rows(how: str, directions: int) -> None:
    torch.manual_seed(0)
    output = torch.randn(4, 3, 4, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([3, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda x: pool(x, lengths, how, directions), (output,))
    pool(output, lengths, how, directions).sum().backward()
    assert output.grad.isfinite().all()
    assert not output.grad[1].any()
    assert not output.grad[2, 1:].any()


@pytest.mark.parametrize("how", POOLINGS)
@pytest.mark.parametrize("shape", [(2, 0, 4), (0, 3, 4), (0, 0, 4)])
def test_no_steps_and_no_rows_are_allowed(how: str, shape: tuple[int, int, int]) -> None:
    pooled = pool(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.long), how, 2)
    assert pooled.shape == (shape[0], pooled_size(2, how, 2))
    assert not pooled.any()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(
        InputError, match=r"pooling must be one of last, mean, max, concat, got 'mena', did you mean 'mean'"
    ):
        pool(OUTPUT, LENGTHS, "mena")
    with pytest.raises(InputError, match=r"must be \[B, T, H \* 2\] and \[B\], got \[2, 3, 2\] and \[3\]"):
        pool(OUTPUT, torch.tensor([1, 2, 3]), "last", 2)
