"""Compiled kernels: against the reference at many sizes, alike to the last bit on any threads, inside their memory."""

import ctypes
import faulthandler
import math
import mmap
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from equations import Odd, Problem, assert_close, assert_same_bits, by_kernel, by_reference, problem, run
from torch import Tensor

from recur.cells import GRU, LSTM, LSTMP, Elman, LayerNormLSTM, PeepholeLSTM
from recur.cells.cell import Cell, State, sigmoid, tanh
from recur.compiler import kernel
from recur.scan import Weights, scan

CELLS: dict[str, Callable[[], Cell]] = {
    "elman": Elman,
    "lstm": LSTM,
    "gru": GRU,
    "gru-before": lambda: GRU("before"),
    "peephole": PeepholeLSTM,
    "layernorm": LayerNormLSTM,
    "lstmp": LSTMP,
    "odd": Odd,
}
SIZES = (1, 37, 64, 100)
# gradients of the weights sum over rows; the others belong to one row
OF_ROWS = ("y", "final", "d x", "d initial")


def of_rows(solution: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in solution.items() if name.startswith(OF_ROWS)}


def row_of(solution: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """What belongs to one row of the batch."""
    one = slice(row, row + 1)
    return {n: v[:, one] if n in ("y", "d x") else v[one] for n, v in of_rows(solution).items()}


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def shared(monkeypatch: pytest.MonkeyPatch, count: int, by_units: int) -> Iterator[None]:
    """Run kernels on `count` threads that share the rows, or the units."""

    def forget() -> None:
        kernel._forward_frame.cache_clear()
        kernel._backward_frame.cache_clear()

    with threads_of_torch(count), monkeypatch.context() as patch:
        patch.setattr(kernel, "share", lambda *_: (count, by_units))
        forget()
        try:
            yield
        finally:
            forget()


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("hidden", SIZES)
def test_every_size_gives_what_the_reference_gives(name: str, hidden: int):
    for batch in SIZES:
        lengths = [7 * row % 4 for row in range(batch)] if batch > 50 else None
        given = problem(CELLS[name](), 3, batch, 7, hidden, lengths=lengths, reverse=batch == 64)
        assert_close(by_kernel(given), by_reference(given))


@pytest.mark.parametrize("name", CELLS)
def test_one_step_gives_what_the_reference_gives(name: str):
    for batch, width, hidden in ((1, 1, 1), (3, 40, 37), (50, 3, 8)):
        given = problem(CELLS[name](), 1, batch, width, hidden, bias=batch != 3)
        assert_close(by_kernel(given), by_reference(given))


@pytest.mark.parametrize("name", ["lstm", "gru-before", "odd"])
def test_single_precision_gives_what_the_reference_gives_in_double(name: str):
    for batch, hidden in ((1, 64), (37, 37), (64, 100)):
        given = problem(CELLS[name](), 5, batch, 7, hidden, dtype=torch.float32)
        assert_close(by_kernel(given), by_reference(given.to(torch.float64)), 1e-4)


@pytest.mark.parametrize("batch", [1, 20])
def test_a_large_layer_gives_what_the_reference_gives(batch: int):
    given = problem(LSTM(), 3, batch, 100, 650)
    assert_close(by_kernel(given), by_reference(given))


@pytest.mark.parametrize("name", CELLS)
def test_a_long_sequence_gives_what_the_reference_gives(name: str):
    # Odd has a mind of its own over many steps, and LayerNorm of 5 numbers too
    steps = 300 if name in ("odd", "layernorm") else 3000
    given = problem(CELLS[name](), steps, 2, 2, 5)
    assert_close(by_kernel(given), by_reference(given), 1e-9)


def test_a_hundred_thousand_steps():
    given = problem(Elman(), 100_000, 1, 2, 4)
    found = by_kernel(given)
    leaves = [value.requires_grad_() for value in (given.x, *given.weights[:4], given.state.h)]
    y, final = scan(given.cell, given.x, given.weights, given.state, backend="torch")[:2]
    loss = (y * given.d_y).sum() + (final.h * given.d_final.h).sum()
    gradients = torch.autograd.grad(loss, leaves)
    names = ["d x", "d ih", "d hh", "d bias_ih", "d bias_hh", "d initial h"]
    expected = {"y": y.detach(), "final h": final.h.detach(), **dict(zip(names, gradients, strict=True))}
    assert_close(found, expected, 1e-9)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inference_and_training_agree_to_the_last_bit(name: str, dtype: torch.dtype):
    for lengths in (None, [4, 0, 9, 9, 1]):
        given = problem(CELLS[name](), 9, 5, 3, 37, lengths=lengths, dtype=dtype)
        inference, training = run(given, training=False), run(given)
        assert torch.equal(inference.y, training.y)
        for a, b in zip(inference.final, training.final, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_do_not_change_a_bit(name: str, dtype: torch.dtype, monkeypatch):
    for lengths in (None, [5, 0, 7, 7, 1, 3, 2, 7, 6, 5]):
        given = problem(CELLS[name](), 7, 10, 20, 200, lengths=lengths, dtype=dtype)
        expected = by_kernel(given)
        assert_same_bits(by_kernel(given), expected)
        for count in (2, 3):
            for by_units in (0, 1):
                with shared(monkeypatch, count, by_units):
                    assert_same_bits(by_kernel(given), expected)
                    assert torch.equal(run(given, training=False).y, expected["y"])
                    assert_same_bits(by_kernel(given), expected)


@pytest.mark.parametrize("by_units", [0, 1])
def test_fewer_threads_than_asked_for_do_all_the_work(by_units: int, monkeypatch):
    given = problem(LSTM(), 7, 10, 4, 200)
    expected = by_kernel(given)
    every = kernel.threads.run
    with shared(monkeypatch, 5, by_units):
        for there in (4, 3, 2, 1):
            monkeypatch.setattr(kernel.threads, "run", lambda f, a, n, there=there: every(f, a, min(n, there)))
            assert_same_bits(by_kernel(given), expected)


@pytest.mark.parametrize("name", CELLS)
def test_a_row_alone_is_the_row_in_a_batch_to_the_last_bit(name: str):
    given = problem(CELLS[name](), 5, 60, 6, 37, dtype=torch.float32)
    together = by_kernel(given)
    ragged = replace(given, lengths=[row % 6 for row in range(60)])
    uneven = by_kernel(ragged)
    for row in (0, 1, 29, 59):
        assert_same_bits(of_rows(by_kernel(given.only(row))), row_of(together, row))
        if ragged.lengths[row]:
            assert_same_bits(of_rows(by_kernel(ragged.only(row))), row_of(uneven, row))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_wrong_with_one_row_stays_there(name: str, bad: float):
    given = problem(CELLS[name](), 4, 9, 3, 37)
    clean = by_kernel(given)
    x, d_y = given.x.clone(), given.d_y.clone()
    x[1, 4] = bad
    spoiled = by_kernel(replace(given, x=x))
    for row in set(range(9)) - {4}:
        assert_same_bits(row_of(spoiled, row), row_of(clean, row))
    if math.isnan(bad):
        assert spoiled["y"][1:, 4].isnan().all()
        assert not spoiled["y"][0, 4].isnan().any()
    d_y[2, 4] = bad
    spoiled = by_kernel(replace(given, d_y=d_y))
    for row in set(range(9)) - {4}:
        assert_same_bits(row_of(spoiled, row), row_of(clean, row))
    if math.isnan(bad):
        assert spoiled["d x"][:3, 4].isnan().any()
        assert not spoiled["d x"][3, 4].isnan().any()


def test_gradients_of_every_state_and_the_gates_values():
    given = problem(LSTM(), 6, 5, 3, 11, lengths=[6, 0, 3, 6, 1])
    d_c = torch.randn(6, 5, 11, dtype=torch.float64)
    arguments = (given.text, given.x, kernel.Weights(*given.weights), list(given.state), given.rows)
    result = kernel.forward(*arguments, training=True, gates=True)
    final = list(given.d_final)
    found = kernel.backward(*arguments, result.y, result.kept, given.d_y, final, d_states={"c": d_c})

    weights = Weights(*(None if w is None else w.clone().requires_grad_() for w in given.weights))
    x, state = given.x.clone().requires_grad_(), given.state.map(lambda value: value.clone().requires_grad_())
    loss, shown = torch.zeros((), dtype=torch.float64), torch.zeros(6, 5, 4, 11, dtype=torch.float64)
    for row, length in enumerate(given.lengths):
        h, c = state.h[row], state.c[row]
        for t in range(length):
            a = weights.ih @ x[t, row] + weights.bias_ih + weights.hh @ h + weights.bias_hh
            i, f, g, o = a.chunk(4)
            i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
            c = f * c + i * g
            h = o * tanh(c)
            shown[t, row] = torch.stack([i, f, g, o]).detach()
            loss = loss + (h * given.d_y[t, row]).sum() + (c * d_c[t, row]).sum()
        loss = loss + (h * given.d_final.h[row]).sum() + (c * given.d_final.c[row]).sum()
    leaves = [x, *weights[:4], *state]
    expected = torch.autograd.grad(loss, leaves)
    for value, wanted in zip([found.x, *found.weights[:4], *found.state], expected, strict=True):
        assert torch.allclose(value, wanted, atol=1e-11)
    assert torch.allclose(result.gates, shown, atol=1e-12)


def test_weights_that_change_in_place_are_seen():
    given = problem(GRU(), 5, 4, 3, 20)
    for change in (
        lambda w: w.mul_(0.5),
        lambda w: w.data.mul_(0.5),
        lambda w: w.copy_(torch.randn_like(w)),
        lambda w: w.data.copy_(torch.randn_like(w)),
    ):
        run(given, training=False)
        for w in given.weights[:4]:
            change(w)
        fresh = given.map(lambda value: value.clone())
        assert torch.equal(run(given, training=False).y, run(fresh, training=False).y)
        assert torch.equal(run(given, training=True).y, run(fresh, training=False).y)


# strides


def strided(value: Tensor, kind: str) -> Tensor:
    """The same numbers, laid out otherwise."""
    if kind == "transposed":
        return value.transpose(0, 1).contiguous().transpose(0, 1)
    if kind == "part of a wider one":
        wide = torch.full((*value.shape[:-1], value.shape[-1] + 5), math.nan, dtype=value.dtype)
        wide[..., 2:-3] = value
        return wide[..., 2:-3]
    twice = torch.full((*value.shape[:-1], 2 * value.shape[-1]), math.nan, dtype=value.dtype)
    twice[..., ::2] = value
    return twice[..., ::2]


@pytest.mark.parametrize("kind", ["transposed", "part of a wider one", "every second number"])
@pytest.mark.parametrize("name", ["gru-before", "lstmp", "peephole"])
def test_strides_do_not_matter(name: str, kind: str):
    given = problem(CELLS[name](), 5, 4, 6, 37, lengths=[5, 2, 0, 5])
    expected = by_kernel(given)
    matrices = {"ih", "hh", "hr", "units"}

    def weight(key: str, value: Tensor | None) -> Tensor | None:
        return value if value is None or (kind == "transposed" and key not in matrices) else strided(value, kind)

    found = by_kernel(
        replace(
            given,
            x=strided(given.x, kind),
            weights=Weights(**{key: weight(key, value) for key, value in given.weights._asdict().items()}),
            state=given.state.map(lambda value: strided(value, kind)),
            d_y=strided(given.d_y, kind),
            d_final=given.d_final.map(lambda value: strided(value, kind)),
        )
    )
    assert_same_bits(found, expected)


def test_masks_may_lie_anywhere():
    class Zoneout(Cell):
        gates = "a b"
        masks = "k l"

        def step(x, U, s, m):
            return State(h=m.k * s.h + (1 - m.k) * tanh(x.a + U.a(m.l * s.h)))

    given = problem(Zoneout(), 5, 4, 6, 37, lengths=[5, 2, 0, 5])
    assert_close(by_kernel(given), by_reference(given))
    assert given.masks is not None
    for kind in ("transposed", "part of a wider one", "every second number"):
        assert_same_bits(by_kernel(replace(given, masks=strided(given.masks, kind))), by_kernel(given))
    row = given.masks[..., :1].expand(2, 5, 4, 37)
    assert_same_bits(by_kernel(replace(given, masks=row)), by_kernel(replace(given, masks=row.contiguous())))
    step = given.masks[:, :1].expand(2, 5, 4, 37)
    assert_same_bits(by_kernel(replace(given, masks=step)), by_kernel(replace(given, masks=step.contiguous())))


@pytest.mark.parametrize("name", ["gru", "lstm", "odd"])
def test_expanded_states_and_gradients(name: str):
    given = problem(CELLS[name](), 5, 4, 6, 37)
    same = replace(
        given,
        x=given.x[:, :1].expand(5, 4, 6),
        state=given.state.map(lambda value: value[:1].expand(4, -1)),
        d_y=given.d_y[:1, :1].expand(5, 4, -1),
        d_final=given.d_final.map(lambda value: value[:1].expand(4, -1)),
    )
    assert_same_bits(by_kernel(same), by_kernel(same.map(lambda value: value.contiguous())))
    flat = replace(
        given,
        x=given.x[:1, :1, :1].expand(5, 4, 6),
        state=given.state.map(lambda value: value[:1, :1].expand(4, 37)),
        d_y=torch.ones((), dtype=torch.float64).expand(5, 4, 37),
        d_final=given.d_final.map(lambda value: value[:1, :1].expand(4, 37)),
    )
    assert_same_bits(by_kernel(flat), by_kernel(flat.map(lambda value: value.contiguous())))


def test_one_step_or_one_row_with_any_stride():
    for steps, batch, width, hidden in ((1, 4, 3, 9), (4, 1, 3, 9), (4, 3, 1, 9), (4, 3, 2, 1)):
        given = problem(LSTM(), steps, batch, width, hidden)
        other = replace(
            given,
            x=strided(given.x, "every second number"),
            state=given.state.map(lambda value: strided(value, "every second number")),
            d_y=strided(given.d_y, "transposed"),
        )
        assert_same_bits(by_kernel(other), by_kernel(given))


# denormal numbers


class Fading(Cell):
    """Half of the state is forgotten at every step."""

    gates = "a"

    def step(x, U, s):
        return State(h=0.5 * s.h + x.a)


def denormals_live() -> bool:
    smallest = torch.full((200_000,), 1e-40)
    return bool((smallest * 0.5 > 0).all()) and 5e-324 * 1.0 > 0


@pytest.mark.parametrize("count", [1, 2])
def test_the_way_of_treating_denormals_is_put_back(count: int, monkeypatch):
    given = problem(LSTM(), 5, 20, 6, 100, dtype=torch.float32)
    with shared(monkeypatch, count, 0):
        assert denormals_live()
        by_kernel(given)
        assert denormals_live()
    if torch.set_flush_denormal(True):
        try:
            run(given)
            assert 5e-324 * 1.0 == 0
        finally:
            torch.set_flush_denormal(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_state_that_fades_away_changes_nothing_else(dtype: torch.dtype):
    given = problem(Fading(), 1500, 2, 1, 20, bias=False, dtype=dtype)
    faded = replace(given, x=torch.zeros_like(given.x), d_y=torch.zeros_like(given.d_y))
    found, expected = by_kernel(faded), by_reference(faded)
    assert_close(found, expected)
    assert not any(value.isnan().any() for value in found.values())
    assert (found["final h"].abs() <= torch.finfo(dtype).tiny).all()


# several callers


@pytest.mark.parametrize("by_units", [0, 1])
def test_several_python_threads_at_once(by_units: int, monkeypatch):
    cells = [LSTM(), GRU("before"), PeepholeLSTM(), LSTM()]
    problems = [problem(cell, 20, 8 + number, 6, 100, seed=number) for number, cell in enumerate(cells)]
    failures: list[str] = []
    start = threading.Barrier(len(problems))

    expected = [by_kernel(given) for given in problems]
    with shared(monkeypatch, 2, by_units):

        def work(given: Problem, wanted: dict[str, Tensor]) -> None:
            try:
                start.wait()
                for _ in range(10):
                    assert_same_bits(by_kernel(given), wanted)
                    assert torch.equal(run(given, training=False).y, wanted["y"])
            except BaseException:
                failures.append(traceback.format_exc())

        workers = [threading.Thread(target=work, args=pair) for pair in zip(problems, expected, strict=True)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not failures, failures[0]


def in_child(function: Callable[[], None]) -> None:
    """Run `function` in the child of a fork, and fail as it fails."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        report = b"done"
        try:
            function()
        except BaseException:
            report = traceback.format_exc()[-5000:].encode()
        os.write(write, report)
        os._exit(0)
    os.close(write)
    try:
        if not select.select([read], [], [], 30)[0]:
            os.kill(child, signal.SIGKILL)
            raise AssertionError("the child of the fork hangs")
        report = os.read(read, 1 << 16)
    finally:
        os.close(read)
        status = os.waitpid(child, 0)[1]
    assert os.WIFEXITED(status), f"the child of the fork was ended by signal {os.WTERMSIG(status)}"
    assert report == b"done", report.decode()


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
ignoring = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@forks
@ignoring
@pytest.mark.parametrize("by_units", [0, 1])
def test_the_child_of_a_fork(by_units: int, monkeypatch):
    given, unknown = problem(LSTM(), 5, 9, 6, 100), problem(Odd(), 5, 9, 6, 100)
    with shared(monkeypatch, 2, by_units):
        expected = by_kernel(given)

        def work() -> None:
            # as loaders of data do: torch's own threads hang in there
            torch.set_num_threads(1)
            for _ in range(3):
                assert_same_bits(by_kernel(given), expected)
            by_kernel(unknown)

        in_child(work)
        assert_same_bits(by_kernel(given), expected)


# memory


class Guarded:
    """Memory between two pages that may not be touched; tensors lie at its end, or at its start."""

    def __init__(self, at_end: bool) -> None:
        self.at_end = at_end
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.alive: list[mmap.mmap] = []

    def room(self, count: int, dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor [count]."""
        size, page = count * dtype.itemsize, mmap.PAGESIZE
        inside = max(1, -(-size // page)) * page
        memory = mmap.mmap(-1, inside + 2 * page)
        self.alive.append(memory)
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for guard in (base, base + page + inside):
            assert self.libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
        if not size:
            return torch.tensor([], dtype=dtype)
        offset = page + (inside - size if self.at_end else 0)
        return torch.frombuffer(memory, dtype=dtype, count=count, offset=offset)

    def copy(self, value: Tensor) -> Tensor:
        """That tensor there."""
        return self.room(value.numel(), value.dtype).copy_(value.flatten()).view(value.shape)

    def replace_allocation(self) -> None:
        """From now on torch allocates here; to be called where the process ends soon."""

        def shape(sizes: tuple) -> tuple[int, ...]:
            return tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes

        def make(sizes: tuple, dtype: torch.dtype | None, zero: bool) -> Tensor:
            size = shape(sizes)
            found = self.room(math.prod(size), dtype or torch.get_default_dtype())
            # what is not written must not be read
            return (found.fill_(0) if zero or not found.is_floating_point() else found.fill_(math.nan)).view(size)

        torch.empty = lambda *sizes, dtype=None: make(sizes, dtype, False)
        torch.zeros = lambda *sizes, dtype=None: make(sizes, dtype, True)
        torch.Tensor.new_empty = lambda own, *sizes: make(sizes, own.dtype, False)
        torch.Tensor.new_zeros = lambda own, *sizes: make(sizes, own.dtype, True)


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected through Linux's mprotect")
@ignoring
@pytest.mark.parametrize("at_end", [True, False], ids=["before a guard page", "after a guard page"])
@pytest.mark.parametrize("hidden", [37, 64])
@pytest.mark.parametrize("name", ["lstm", "gru", "peephole", "gru-before", "odd", "lstmp"])
def test_nothing_outside_of_a_buffer_is_touched(name: str, hidden: int, at_end: bool):
    for dtype in (torch.float32, torch.float64):
        for lengths in (None, [4, 1, 0]):
            given = problem(CELLS[name](), 4, 3, 5, hidden, lengths=lengths, dtype=dtype)
            expected = by_kernel(given)
            inference = run(given, training=False).y

            def work(given=given, expected=expected, inference=inference) -> None:
                guarded = Guarded(at_end)
                there = given.map(guarded.copy)
                kernel._workspaces.buffers.clear()
                guarded.replace_allocation()
                assert_same_bits(by_kernel(there), expected)
                assert torch.equal(run(there, training=False).y, inference)

            in_child(work)


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected through Linux's mprotect")
@ignoring
@pytest.mark.parametrize("at_end", [True, False], ids=["before a guard page", "after a guard page"])
@pytest.mark.parametrize("by_units", [0, 1])
def test_no_number_of_threads_touches_anything_outside(by_units: int, at_end: bool, monkeypatch):
    # 10 rows for 5 threads are 2 each, for 4 they are up to 3
    given = problem(GRU("before"), 4, 10, 5, 200)
    expected = by_kernel(given)
    every = kernel.threads.run

    def work() -> None:
        torch.set_num_threads(1)
        guarded = Guarded(at_end)
        there = given.map(guarded.copy)
        kernel._workspaces.buffers.clear()
        guarded.replace_allocation()
        for count in (5, 4, 3, 1):
            kernel.threads.run = lambda f, a, n, count=count: every(f, a, min(n, count))
            assert_same_bits(by_kernel(there), expected)

    with shared(monkeypatch, 5, by_units):
        in_child(work)


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected through Linux's mprotect")
@ignoring
def test_a_guard_page_is_a_guard():
    def work() -> None:
        faulthandler.disable()
        row = Guarded(True).copy(torch.zeros(5))
        ctypes.memmove(row.data_ptr() + 20, row.data_ptr(), 4)

    with pytest.raises(AssertionError, match="ended by signal 11"):
        in_child(work)
