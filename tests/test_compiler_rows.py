"""Rows of any length, padded on either side, backwards, starting anew half-way: against each part run alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from equations import Odd, Problem, assert_close, by_kernel, named, problem, run
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recur.cells import GRU, LSTM, LSTMP
from recur.cells.cell import State
from recur.compiler.rows import ragged, uniform
from recur.scan import Weights, scan

T, B = 9, 7
LENGTHS = [4, 0, 9, 9, 1, 6, 0]


def parts(lengths: list[int], left: bool, resets: Tensor | None, reverse: bool) -> list[tuple[int, int, int, bool]]:
    """The parts of each batch row as they run: (row, first step, stop, whether it starts from zero)."""
    steps = T if resets is None else len(resets)
    found = []
    for row, length in enumerate(lengths):
        start = steps - length if left else 0
        own: list[list[int]] = []
        for t in range(start, start + length):
            if t == start or (resets is not None and resets[t, row]):
                own.append([])
            own[-1].append(t)
        fresh = [resets is not None and bool(resets[steps_[0], row]) for steps_ in own]
        if reverse:
            fresh = [number < len(own) - 1 for number in range(len(own))]
        one = [(row, part[0], part[-1] + 1, zero) for part, zero in zip(own, fresh, strict=True)]
        found += one[::-1] if reverse else one
    return found


def by_parts(given: Problem, lengths: list[int], left: bool, resets: Tensor | None, reverse: bool) -> dict[str, Tensor]:
    """Each part alone through the reference, and autograd."""
    given = given.map(lambda value: value.clone().requires_grad_())
    names = given.cell.state_names
    y = [[torch.zeros_like(given.d_y[0, 0])] * len(lengths) for _ in given.x]
    final = {name: list(value.split(1)) for name, value in given.state.items()}
    seen: set[int] = set()
    for row, first, stop, fresh in parts(lengths, left, resets, reverse):
        state = State(**{name: final[name][row] * (0 if fresh else 1) for name in names})
        assert fresh or row not in seen
        seen.add(row)
        part = given.x[first:stop, row : row + 1]
        output, after = scan(given.cell, part, given.weights, state, reverse=reverse, backend="reference")[:2]
        for t in range(first, stop):
            y[t][row] = output[t - first, 0]
        for name in names:
            final[name][row] = getattr(after, name)
    outputs = torch.stack([torch.stack(step) for step in y])
    last = [torch.cat(final[name]) for name in names]
    loss = (outputs * given.d_y).sum() + sum((v * g).sum() for v, g in zip(last, given.d_final, strict=True))
    leaves = [given.x, *(w for w in given.weights if w is not None), *given.state]
    gradients = iter(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
    d_x = next(gradients)
    d_weights = Weights(*(None if w is None else next(gradients) for w in given.weights))
    found = named(given, outputs, last, d_x, d_weights, list(gradients))
    return {name: value.detach() for name, value in found.items()}


def marks(kind: str) -> Tensor | None:
    resets = torch.zeros(T, B, dtype=torch.bool)
    match kind:
        case "none":
            return None
        case "nowhere":
            return resets
        case "everywhere":
            return ~resets
        case "at the start":
            resets[0] = True
            resets[[T - length for length in LENGTHS if length], [row for row in range(B) if LENGTHS[row]]] = True
            return resets
    return torch.rand(T, B, generator=torch.Generator().manual_seed(5)) < 0.3


@pytest.mark.parametrize("resets", ["none", "nowhere", "here and there", "at the start", "everywhere"])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_gru_gives_what_each_part_gives_alone(reverse: bool, left: bool, resets: str):
    where = marks(resets)
    rows = ragged(T, LENGTHS, reverse=reverse, left=left, resets=where)
    given = problem(GRU("before"), T, B, 5, 11)
    assert_close(by_kernel(given, rows=rows), by_parts(given, LENGTHS, left, where, reverse))


@pytest.mark.parametrize("cell", [LSTM(), LSTMP(), Odd()], ids=lambda cell: type(cell).__name__)
@pytest.mark.parametrize("reverse", [False, True])
def test_other_cells_start_anew_too(cell, reverse: bool):
    where = marks("here and there")
    for left in (False, True):
        rows = ragged(T, LENGTHS, reverse=reverse, left=left, resets=where)
        given = problem(cell, T, B, 3, 9)
        assert_close(by_kernel(given, rows=rows), by_parts(given, LENGTHS, left, where, reverse))


@pytest.mark.parametrize("cell", [GRU(), LSTM()], ids=lambda cell: type(cell).__name__)
def test_inference_starts_anew_too(cell):
    where = marks("here and there")
    for reverse in (False, True):
        for lengths in (LENGTHS, [T] * B, [T, 2, 2, 2, 2, 2, 1]):
            rows = ragged(T, lengths, reverse=reverse, resets=where)
            given = problem(cell, T, B, 3, 9)
            expected = by_parts(given, lengths, False, where, reverse)
            found = run(given, rows=rows, training=False)
            assert torch.allclose(found.y, expected["y"], atol=1e-12)
            for name, value in zip(cell.state_names, found.final, strict=True):
                assert torch.allclose(value, expected[f"final {name}"], atol=1e-12), name


@pytest.mark.parametrize("reverse", [False, True])
def test_full_rows_by_their_lengths_are_uniform_rows(reverse: bool):
    rows = ragged(T, [T] * B, reverse=reverse)
    assert rows.uniform
    given = problem(LSTM(), T, B, 3, 9, reverse=reverse)
    expected = by_parts(given, [T] * B, False, None, reverse)
    assert_close(by_kernel(given, rows=rows), expected)
    assert_close(by_kernel(given, rows=uniform(T, B, reverse)), expected)


@pytest.mark.parametrize("cell", [GRU(), LSTM(), Odd()], ids=lambda cell: type(cell).__name__)
@pytest.mark.parametrize("reverse", [False, True])
def test_where_all_rows_are_empty_the_state_passes_through(cell, reverse: bool):
    given = problem(cell, T, B, 3, 9)
    rows = ragged(T, [0] * B, reverse=reverse, left=True, resets=marks("everywhere"))
    assert (rows.count, rows.steps, rows.total) == (0, 0, 0)
    found = by_kernel(given, rows=rows)
    assert_close(found, by_parts(given, [0] * B, True, marks("everywhere"), reverse))
    assert not found["y"].any()
    assert not found["d hh"].any()
    for name in cell.state_names:
        assert torch.equal(found[f"final {name}"], getattr(given.state, name))
        assert torch.equal(found[f"d initial {name}"], getattr(given.d_final, name))
    assert not run(given, rows=rows, training=False).y.any()


def test_what_stands_in_the_padding_does_not_matter():
    for left in (False, True):
        given = problem(GRU(), T, B, 5, 11)
        rows = ragged(T, LENGTHS, left=left)
        expected = by_kernel(given, rows=rows)
        x, d_y = given.x.clone(), given.d_y.clone()
        for row, length in enumerate(LENGTHS):
            padding = slice(0, T - length) if left else slice(length, T)
            x[padding, row] = float("nan")
            d_y[padding, row] = float("nan")
        found = by_kernel(replace(given, x=x, d_y=d_y), rows=rows)
        for name, value in found.items():
            assert torch.equal(value, expected[name]), name


def test_final_states_that_nothing_comes_from():
    from recur.compiler import kernel

    given = problem(LSTM(), T, B, 5, 11)
    zero = replace(given, d_final=given.d_final.map(torch.zeros_like))
    for rows in (uniform(T, B), ragged(T, LENGTHS)):
        result = run(given, rows=rows)
        arguments = (
            given.text,
            given.x,
            kernel.Weights(*given.weights),
            list(given.state),
            rows,
            result.y,
            result.kept,
        )
        found = kernel.backward(*arguments, given.d_y, [None, None])
        expected = by_kernel(zero, rows=rows)
        assert torch.equal(found.x, expected["d x"])
        assert torch.equal(found.state[1], expected["d initial c"])
        nothing = kernel.backward(*arguments, None, [None, None])
        assert not nothing.x.any()
        assert not nothing.weights.hh.any()
        part = kernel.backward(*arguments, given.d_y, [None, None], need_x=False, need_weights=False)
        assert part.x is None
        assert part.weights.hh is None
        assert torch.equal(part.state[0], expected["d initial h"])


@st.composite
def shapes(draw):
    steps, batch = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    lengths = draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
    marked = draw(st.none() | st.lists(st.booleans(), min_size=steps * batch, max_size=steps * batch))
    resets = None if marked is None else torch.tensor(marked).view(steps, batch)
    return steps, batch, lengths, resets, draw(st.booleans()), draw(st.booleans())


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(shape=shapes())
def test_every_valid_step_has_one_place_in_its_order(shape):
    steps, batch, lengths, resets, left, reverse = shape
    rows = ragged(steps, lengths, reverse=reverse, left=left, resets=resets)
    wanted = parts(
        lengths, left, resets if resets is not None else torch.zeros(steps, batch, dtype=torch.bool), reverse
    )
    assert rows.count == len(wanted)
    assert rows.total == sum(lengths)
    assert list(rows.length) == sorted((stop - first for _, first, stop, _ in wanted), reverse=True)
    found = set()
    for row, first, length, fresh in zip(rows.row, rows.first, rows.length, rows.fresh, strict=True):
        low = first - length + 1 if reverse else first
        found.add((int(row), int(low), int(low + length), bool(fresh)))
    assert found == set(wanted)
    # packed positions: step after step, those still running first
    step, row = rows.places()
    assert len({*zip(step.tolist(), row.tolist(), strict=True)}) == rows.total
    for number in range(rows.count):
        own = rows.cum[:-1][: rows.length[number]] + number
        assert list(row[own]) == [rows.row[number]] * rows.length[number]
        assert list(step[own]) == [rows.first[number] + rows.direction * t for t in range(rows.length[number])]
    whole = torch.randn(steps, batch, 2)
    packed = rows.pack(whole)
    assert torch.equal(packed, whole[torch.from_numpy(step), torch.from_numpy(row)])
    valid = torch.zeros(steps, batch, 1)
    valid[torch.from_numpy(step), torch.from_numpy(row)] = 1
    assert torch.equal(rows.unpack(packed), whole * valid)
    flat = whole.flatten().numpy()
    assert np.array_equal(flat[rows.offsets(whole)], packed[:, 0].numpy())
