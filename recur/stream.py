"""One step at a time: `layer.stream()` takes inputs as they come and carries the state from call to call.

On a CPU nearly all of a step is the compiled kernel: buffers and the kernel's argument are made once, and a step points
it to its input and exchanges the places of the state before and the state after.
"""

from collections.abc import Iterator, Sequence
from threading import Lock
from time import perf_counter_ns
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from recur.cells.cell import Cell, State
from recur.cells.zoneout import masks_for
from recur.compiler import kernel, threads
from recur.compiler.graph import UNITS
from recur.compiler.library import library
from recur.compiler.rows import uniform
from recur.compiler.weights import Sizes, packed_for_inference
from recur.errors import InputError
from recur.scan import Weights, choose, equation_text, scan

Numbers = np.ndarray[tuple[int, ...], np.dtype[np.generic]]

# so many multiplications take one thread about as long as it takes to have another one at hand
SHARED_FROM = 200_000
# how often a step looks at the weights' numbers, which takes as long as a step of 64 units, and at torch's threads
LOOK_EVERY = 16


class Layer(Protocol):
    """What a stream asks of a layer."""

    @property
    def cell(self) -> Cell:
        """The equation."""

    @property
    def backend(self) -> str:
        """As for `recur.scan.scan`."""

    @property
    def residual(self) -> bool:
        """Whether each layer but the first adds its input to its outputs."""

    @property
    def bidirectional(self) -> bool:
        """Whether it reads backwards too."""

    @property
    def input_size(self) -> int:
        """D."""

    def weights(self) -> list[list[Weights]]:
        """Return the weights of each layer and direction."""

    def modules(self) -> Iterator[nn.Module]:
        """Return the layer and the modules in it."""


class Stream:
    """Rows that are read step by step, each from its own carried state; `layer.stream()` makes one.

    The states start at zero. Dropout is off, masks such as zoneout's are their expectation, and no gradient flows,
    whatever mode the layer is in. Weights that change are noticed at the next step; those written to past autograd, as
    `parameter.data`, within 16. Calls from several threads run one after the other; streams of their own run at the
    same time. NaN in an input stays in its row until that row is reset.

    Args:
        layer: RNN, LSTM, GRU or Recurrent, of one direction.
        batch: B, the rows.

    Raises:
        InputError: the layer is bidirectional, or `batch` is not above 0.

    >>> stream = Recurrent("lstm", 4, 8).stream(batch=2)
    >>> stream.step(torch.randn(2, 4)).shape, stream.state.c.shape
    (torch.Size([2, 8]), torch.Size([1, 2, 8]))
    """

    def __init__(self, layer: Layer, batch: int = 1) -> None:
        if layer.bidirectional:
            raise InputError(
                "`layer` must have one direction to be streamed, got a bidirectional one, which needs the whole row "
                "before its first output; use bidirectional=False"
            )
        if not isinstance(batch, int) or batch < 1:
            raise InputError(f"`batch` must be a whole number above 0, got {batch!r}")
        self.batch = batch
        self._layer, self._lock, self._until_look = layer, Lock(), LOOK_EVERY
        self._renew(None)

    def step(self, x: Tensor) -> Tensor:
        """Take one step of every row: x [B, D] -> the last layer's outputs [B, H].

        Raises:
            InputError: x has another shape, type or device than the layer asks for.
        """
        with self._lock:
            self._until_look -= 1
            runner = self._look() if not self._until_look or self._weights.changed() else self._runner
            if (
                not isinstance(x, Tensor)
                or x.shape != runner.shape
                or x.dtype is not runner.dtype
                or x.is_cpu is not runner.cpu
            ):
                runner = self._look()
                _check(x, (*runner.shape,), "[B, D]", runner)
            return runner.step(x if x.is_contiguous() else x.contiguous())

    def steps(self, x: Tensor) -> Tensor:
        """Take several steps of every row: x [B, T, D] -> the last layer's outputs [B, T, H], T at least 1.

        Raises:
            InputError: x has another shape, type or device than the layer asks for.
        """
        with self._lock:
            runner = self._look()
            batch, size = runner.shape
            steps = x.shape[1] if isinstance(x, Tensor) and x.dim() == 3 else 1
            _check(x, (batch, max(1, steps), size), "[B, T, D]", runner)
            return runner.steps(x.transpose(0, 1)).transpose(0, 1)

    @property
    def state(self) -> State:
        """The state after the last step, a copy, [layers, B, H] each. It may be set: the next step starts there."""
        with self._lock:
            return self._runner.state

    @state.setter
    def state(self, state: State) -> None:
        with self._lock:
            own = self._runner.state
            if not isinstance(state, State) or sorted(dict(state.items())) != sorted(dict(own.items())):
                wanted = ", ".join(f"{name}=..." for name, _ in own.items())
                raise InputError(f"`state` must be State({wanted}), got {type(state).__name__}")
            for name, value in own.items():
                given = getattr(state, name)
                if given.shape != value.shape:
                    raise InputError(f"`state.{name}` must have shape {list(value.shape)}, got {list(given.shape)}")
            self._runner.state = State(**{name: getattr(state, name) for name, _ in own.items()})

    def reset(self, rows: Sequence[int] | Tensor | None = None) -> None:
        """Begin anew, from states of zeros.

        Args:
            rows: the rows that do, numbers in 0..B-1 or a mask, bool [B]; all of them if None.

        Raises:
            InputError: there is no such row.
        """
        index = as_rows(rows, self.batch)
        with self._lock:
            self._runner.state = self._runner.state.map(lambda value: value.index_fill(1, index.to(value.device), 0))

    def _look(self) -> "_Looped":
        """Look at the weights' numbers too, and make ready anew where they are not what they were."""
        self._until_look = LOOK_EVERY
        if self._weights.changed() or self._weights.written() or torch.get_num_threads() != self._threads:
            self._renew(self._runner.state)
        return self._runner

    def _renew(self, state: State | None) -> None:
        """Make ready for the weights as they are now."""
        layer = self._layer
        # what is made here may be changed in place at any later time
        with torch.inference_mode(False), torch.no_grad():
            self._weights, self._threads = _Watch(layer.modules()), torch.get_num_threads()
            weights = [directions[0] for directions in layer.weights()]
            backend = "auto" if layer.backend == "parallel" else layer.backend
            ih = weights[0].ih
            zero = _zeros(layer.cell, weights[0], self.batch)
            x = ih.new_zeros(1, self.batch, layer.input_size)
            chosen = choose(layer.cell, x, weights[0], zero, backend, plain=not layer.cell.mask_names)
            maker = _Compiled if chosen == "cpu" else _Looped
            self._runner: _Looped = maker(layer.cell, weights, self.batch, layer.input_size, backend, layer.residual)
            if state is not None:
                self._runner.state = state

    def __repr__(self) -> str:
        return f"Stream({self._layer!r}, batch={self.batch})"


def as_rows(rows: Sequence[int] | Tensor | None, batch: int) -> Tensor:
    """Return the numbers of the rows that `rows` names, int64 [n]; all if None.

    Raises:
        InputError: not numbers in 0..B-1 nor a bool mask [B].
    """
    if rows is None:
        return torch.arange(batch)
    given = torch.as_tensor(rows)
    if given.dtype == torch.bool and given.shape == (batch,):
        return given.nonzero().squeeze(1)
    if given.numel() == 0:
        return torch.arange(0)
    if given.is_floating_point() or given.dtype == torch.bool or given.dim() > 1:
        raise InputError(f"`rows` must be row numbers or a bool mask [B] = [{batch}], got {rows!r}")
    if int(given.min()) < 0 or int(given.max()) >= batch:
        raise InputError(f"`rows` must be in 0..B-1 = 0..{batch - 1}, got {rows!r}")
    return given.reshape(-1).to(torch.int64)


def _check(x: object, shape: tuple[int, ...], layout: str, runner: "_Looped") -> None:
    place = "the CPU" if runner.cpu else "the layer's device"
    wanted = f"`x` must be {layout} = {list(shape)}, {runner.dtype}, on {place}"
    if not isinstance(x, Tensor):
        raise InputError(f"{wanted}, got {type(x).__name__}")
    if x.shape != shape or x.dtype is not runner.dtype or x.is_cpu is not runner.cpu:
        raise InputError(f"{wanted}, got {list(x.shape)}, {x.dtype}, on {x.device}")


def _zeros(cell: Cell, weights: Weights, batch: int) -> State:
    hidden = len(weights.ih) // len(cell.gate_names)
    sizes = {name: len(weights.hr) if name == "h" and weights.hr is not None else hidden for name in cell.state_names}
    return State(**{name: weights.ih.new_zeros(batch, size) for name, size in sizes.items()})


class _Watch:
    """Notices when a layer's parameters are not what they were."""

    def __init__(self, modules: Iterator[nn.Module]) -> None:
        tables = [table for module in modules for table in (module._parameters, module._buffers)]
        found = [(table, name, value) for table in tables for name, value in table.items() if value is not None]
        self._versions = [(*entry, -1 if entry[2].is_inference() else entry[2]._version) for entry in found]
        self._numbers = [(value, value.data_ptr(), view := _some(value), view.tobytes()) for _, _, value in found]

    def changed(self) -> bool:
        """Whether one was replaced, or changed as autograd knows it."""
        for table, name, value, version in self._versions:
            if table[name] is not value or (version >= 0 and value._version != version):
                return True
        return False

    def written(self) -> bool:
        """Whether one lies elsewhere, or some of its numbers are others: `parameter.data` leaves no trace besides."""
        return any(
            value.data_ptr() != address or view.tobytes() != numbers for value, address, view, numbers in self._numbers
        )


def _some(value: Tensor) -> Numbers:
    """Return some of the numbers where they lie, none where numpy cannot look there."""
    if not value.is_cpu or not value.is_contiguous() or value.dtype is torch.bfloat16:
        return np.zeros(0)
    flat = value.detach().numpy().reshape(-1)
    return flat[:: max(1, flat.size // 61)]


class _Looped:
    """Layers of which every step is a scan: any backend and device."""

    def __init__(
        self, cell: Cell, weights: list[Weights], batch: int, input_size: int, backend: str, residual: bool
    ) -> None:
        self.cell, self.weights, self.backend, self.residual = cell, weights, backend, residual
        like = weights[0].ih
        self.shape, self.dtype, self.cpu = torch.Size((batch, input_size)), like.dtype, like.is_cpu
        self._zero = [_zeros(cell, one, batch) for one in weights]
        self._states = self._zero

    @property
    def state(self) -> State:
        """[layers, B, H] each."""
        names = self.cell.state_names
        return State(**{name: torch.stack([getattr(state, name) for state in self._states]) for name in names})

    @state.setter
    def state(self, state: State) -> None:
        names, like = self.cell.state_names, self.weights[0].ih
        given = {name: getattr(state, name).detach().to(like, copy=True) for name in names}
        self._states = [State(**{name: given[name][n] for name in names}) for n in range(len(self.weights))]

    def step(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, H]."""
        return self.steps(x[None])[0]

    def steps(self, x: Tensor) -> Tensor:
        """[T, B, D] -> [T, B, H]."""
        after: list[State] = []
        with torch.no_grad():
            for weights, state in zip(self.weights, self._states, strict=True):
                like = next(value for name, value in state.items() if name != "h" or weights.hr is None)
                masks = masks_for(self.cell, len(x), like, draw=False)
                output, state, *_ = scan(self.cell, x, weights, state, masks=masks, backend=self.backend)
                x = x + output if self.residual and after else output
                after.append(state)
        self._states = after
        return x


class _Compiled(_Looped):
    """Layers whose steps are calls of kernels with arguments made once, one for each of two turns.

    In a turn, a layer reads its state from where the other turn has left it.
    """

    def __init__(
        self, cell: Cell, weights: list[Weights], batch: int, input_size: int, backend: str, residual: bool
    ) -> None:
        super().__init__(cell, weights, batch, input_size, backend, residual)
        self._turn, nt = 0, torch.get_num_threads()
        self._kernel = kernel.forward_kernel(equation_text(cell), self.dtype, False)
        x = torch.empty(1, *self.shape, dtype=self.dtype)
        inputs = (x, x)
        self._turns: list[_Turns] = []
        # what is added to what, and where the sum goes, for each layer that does so and each turn
        self._sums: list[list[tuple[Numbers, Numbers, Numbers]]] = []
        for one, zero in zip(weights, self._zero, strict=True):
            self._turns.append(_Turns(cell, self._kernel, one, zero, inputs, nt))
            read, inputs = inputs, self._turns[-1].outputs
            if residual and len(self._turns) > 1:
                total = torch.zeros_like(inputs[0])
                self._sums.append([(read[turn].numpy(), inputs[turn].numpy(), total.numpy()) for turn in (0, 1)])
                inputs = (total, total)
        # a cell may have no use for its input
        self._x_place = self._kernel.fields.index("x") if "x" in self._kernel.fields else None
        self._first = self._turns[0].arguments
        self._calls = [[layer.arguments[turn].ctypes.data for layer in self._turns] for turn in (0, 1)]
        self._outputs = [output[0].numpy() for output in inputs]
        work = batch * sum(one.ih.numel() + (0 if one.hh is None else one.hh.numel()) for one in weights)
        most = min(nt, *(layer.groups for layer in self._turns)) if work > SHARED_FROM else 1
        self._pace = _Pace(most) if most > 1 else None

    @property
    def state(self) -> State:
        """[layers, B, H] each."""
        views = [layer.states[self._turn] for layer in self._turns]
        return State(**{name: torch.stack([view[name] for view in views]) for name in self.cell.state_names})

    @state.setter
    def state(self, state: State) -> None:
        with torch.no_grad():
            for number, layer in enumerate(self._turns):
                for name, view in layer.states[self._turn].items():
                    view.copy_(getattr(state, name)[number])

    def step(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, H]."""
        turn = self._turn ^ 1
        if self._x_place is not None:
            self._first[turn][self._x_place] = x.data_ptr()
        pace, run, function = self._pace, threads.run, self._kernel.address
        if self._sums:
            self._step_and_add(turn)
        elif pace is None:
            for argument in self._calls[turn]:
                run(function, argument, 1)
        else:
            start, nt = perf_counter_ns(), pace.threads
            for argument in self._calls[turn]:
                run(function, argument, nt)
            pace.note(perf_counter_ns() - start)
        self._turn = turn
        # a copy by numpy is made in two thirds of the time of one by torch
        return torch.from_numpy(self._outputs[turn].copy())

    def _step_and_add(self, turn: int) -> None:
        """Run the layers, each but the first adding its input to its output."""
        first, *others = self._calls[turn]
        threads.run(self._kernel.address, first, 1)
        for argument, sums in zip(others, self._sums, strict=True):
            threads.run(self._kernel.address, argument, 1)
            read, output, total = sums[turn]
            np.add(read, output, out=total)

    def steps(self, x: Tensor) -> Tensor:
        """[T, B, D] -> [T, B, H]."""
        state = self.state
        self._states = [state.map(lambda value, n=n: value[n]) for n in range(len(self.weights))]  # type: ignore[misc]
        output = super().steps(x)
        self.state = super().state
        return output


class _Turns:
    """One layer's buffers and the argument of its kernel, for each of two turns.

    Attributes:
        outputs: where a turn leaves the outputs, [1, B, H].
        states: where a turn leaves the states, [B, H] by name.
        arguments: the words of the kernel's argument.
        groups: how many threads can share the units.
    """

    def __init__(
        self,
        cell: Cell,
        forward: kernel.Kernel,
        weights: Weights,
        zero: State,
        inputs: tuple[Tensor, Tensor],
        nt: int,
    ) -> None:
        batch, dtype = len(zero.h), zero.h.dtype
        hidden = len(weights.ih) // len(cell.gate_names)
        lib, rows = library(dtype), uniform(1, batch)
        sizes = Sizes(inputs[0].shape[2], hidden, zero.h.shape[1], lib.VL)
        frame = kernel.Frame(forward, sizes, rows, lib)
        packed = packed_for_inference(frame.plan, weights, sizes, lib)
        masks = masks_for(cell, 1, zero.h.new_empty(()).expand(batch, hidden), draw=False)
        self.groups = sizes.padded(UNITS) // lib.VL // lib.NC
        self.outputs = torch.zeros_like(zero.h)[None], torch.zeros_like(zero.h)[None]
        others = [
            {name: torch.zeros(batch, sizes.padded(UNITS), dtype=dtype) for name in frame.others} for _ in range(2)
        ]
        self.states = [
            {name: output[0] if name == "h" else other[name][:, :hidden] for name in cell.state_names}
            for output, other in zip(self.outputs, others, strict=True)
        ]
        slots = torch.zeros(batch, frame.slot_row, dtype=dtype)
        scratch = {
            "pointers": torch.zeros(frame.pointers * nt, dtype=torch.int64),
            "gx": torch.zeros(frame.gx * nt, dtype=dtype),
            "temporary": torch.zeros(frame.temporary, dtype=dtype),
            "sums": torch.zeros(frame.sums, dtype=dtype),
        }
        self.arguments = []
        for turn in (0, 1):
            before = list(self.states[turn ^ 1].values())
            words = frame.words(slots, slots, rows, self.outputs[turn], masks, before, others[turn], packed)
            words |= rows.words("x", inputs[turn]) | {"split": 1}
            words |= {name: value.data_ptr() for name, value in scratch.items()}
            argument = frame.template.copy()
            for name, value in words.items():
                if name in frame.places:
                    argument[frame.places[name]] = value
            self.arguments.append(argument)
        # the arguments hold addresses only
        self._alive = (inputs, rows, packed, masks, slots, scratch)


class _Pace:
    """How many threads take a step: several as long as they have lately saved time, which is tried again and again.

    Steps are so short, and may come so seldom, that to wake a thread, or to share its processor with another process,
    can cost more than it brings; and they leave no time for medians (`recur.compiler.choice`). What trying loses is
    less than a tenth of the time. The results are the same for any number.
    """

    def __init__(self, most: int) -> None:
        self.most, self.threads = most, 1
        self._alone, self._wait, self._saved = float("inf"), float("inf"), 0.0

    def note(self, time: float) -> None:
        """Take into account how long a step took."""
        if self.threads == 1:
            # the best, forgotten slowly: the processor may become slower
            self._alone = min(time, 1.01 * self._alone)
            self._wait = (8 * time if self._wait == float("inf") else self._wait) - time
            if self._wait <= 0:
                self.threads, self._saved = self.most, 8 * self._alone
        else:
            self._saved += self._alone - time - self._saved / 256
            if self._saved < 0:
                self.threads, self._wait = 1, 16 * (8 * self._alone - self._saved)
