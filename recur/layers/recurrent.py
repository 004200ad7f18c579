"""`Recurrent`: any cell, the reader's own included, as a layer that owns its weights."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import _register_namedtuple

from recur.cells import cell_named
from recur.cells.cell import Cell, State
from recur.errors import InputError
from recur.layers.plan import check_checkpoint
from recur.layers.stack import Trace, check_finite, check_lengths, check_resets, padded_left, run_stack, time_first
from recur.scan import BACKENDS, Weights
from recur.stream import Stream

_OPTIONS = (
    "num_layers",
    "bias",
    "batch_first",
    "dropout",
    "bidirectional",
    "proj_size",
    "recurrent_dropout",
    "residual",
    "backend",
    "checkpoint",
)


class Output(NamedTuple):
    """What `Recurrent` returns: `output` [T, B, H * directions] and `state`, each [layers * directions, B, H]."""

    output: Tensor
    state: State


# by this name a program that torch.export has saved finds it again
_register_namedtuple(Output, serialized_type_name="recur.Output")


class Recurrent(nn.Module):
    """Run any cell over sequences: stacked, in both directions, with rows of any length.

    Args:
        cell: a `Cell`, a class of one, or a name in `recur.cells.CELLS`.
        input_size: D, numbers per step.
        hidden_size: H, units of each state.
        num_layers: layers; each reads the outputs of the one before.
        bias: True or "one": b in W x + b. "two": a second one in every recurrent product, as torch.nn has. False: none.
        batch_first: whether input and output are `[B, T, *]` rather than `[T, B, *]`.
        dropout: probability of zeroing an output between layers, while training.
        bidirectional: whether a second set of weights reads each row backwards from its own end.
        proj_size: P, the size of a projected cell's output.
        recurrent_dropout: share of recurrent weights dropped for a sequence in training (DropConnect).
        residual: whether each layer but the first adds its input to its outputs, so that gradients pass it on their way
            to the layers below (Wu et al. 2016, arXiv:1609.08144, section 3.1). The final states are the layers' own.
        backend: "auto", "cpu", "torch" or "reference", see `recur.scan.scan`; or "parallel" for a cell that is linear
            in its state, as mingru and minlstm are: log2 T passes over all steps instead of a loop, see
            `recur.layers.parallel`.
        checkpoint: what is kept for the backward instead of all steps' states and gates: "sqrt", about √T states; a
            number of states; or an amount of memory, such as "500MB". The rest is run again, and the gradients are
            the same; `recur.checkpoint_plan` says at what cost.
        device, dtype: of the parameters.

    Parameters are named and laid out as in torch.nn: `weight_ih_l0` [G*H, D], `weight_hh_l0` [G*H, H], `bias_ih_l0`,
    `bias_hh_l0` [G*H], `weight_hr_l0` [P, H], with "_reverse" for the backward direction, and `units_l0` [K, H] for
    per-unit parameters; gates are stacked in the cell's order. All start uniform in ±1/sqrt(H), as in torch.nn.

    Raises:
        InputError: an argument is out of its range.

    Example:
        >>> class Leaky(Cell):
        ...     gates = "a"
        ...     def step(x, U, s):
        ...         return State(h=0.9 * s.h + 0.1 * tanh(x.a + U.a(s.h)))
        >>> output, state = Recurrent(Leaky, 4, 8, batch_first=True)(torch.randn(2, 5, 4), lengths=[5, 3])
        >>> output.shape
        torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        cell: Cell | type[Cell] | str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool | Literal["one", "two"] = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        recurrent_dropout: float = 0.0,
        residual: bool = False,
        backend: str = "auto",
        checkpoint: int | str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.cell = _as_cell(cell)
        for name, value in (
            ("input_size", input_size),
            ("hidden_size", hidden_size),
            ("num_layers", num_layers),
        ):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"`{name}` must be a whole number above 0, got {value!r}")
        for name, share in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
            if not 0 <= share < 1:
                raise InputError(f"`{name}` must be in [0, 1), got {share}")
        if bias not in (True, False, "one", "two"):
            raise InputError(f"`bias` must be True, False, 'one' or 'two', got {bias!r}")
        if self.cell.projected != (proj_size > 0):
            raise InputError(
                f"`proj_size` must be {'above 0' if self.cell.projected else '0'} for {self.cell!r}, got {proj_size}"
            )
        if backend not in (*BACKENDS, "parallel"):
            raise InputError(f"`backend` must be one of {', '.join(BACKENDS)}, parallel, got {backend!r}")
        self.input_size, self.hidden_size, self.num_layers, self.proj_size = (
            input_size,
            hidden_size,
            num_layers,
            proj_size,
        )
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout, self.recurrent_dropout, self.residual, self.backend = (
            dropout,
            recurrent_dropout,
            residual,
            backend,
        )
        self.checkpoint = check_checkpoint(checkpoint)

        stacked, recurrent = (len(names) * hidden_size for names in (self.cell.gate_names, self.cell.recurrent_names))
        outputs = proj_size or hidden_size
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else outputs * self.directions
            shapes: dict[str, tuple[int, ...]] = {"weight_ih": (stacked, inputs)}
            shapes |= {"weight_hh": (recurrent, outputs)} if recurrent else {}
            shapes |= {"bias_ih": (stacked,)} if bias else {}
            shapes |= {"bias_hh": (recurrent,)} if bias == "two" and recurrent else {}
            shapes |= {"units": (len(self.cell.unit_names), hidden_size)} if self.cell.unit_names else {}
            shapes |= {"weight_hr": (proj_size, hidden_size)} if proj_size else {}
            for suffix in self._suffixes(layer):
                for name, shape in shapes.items():
                    parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                    self.register_parameter(name + suffix, parameter)
        self.reset_parameters()

    @property
    def directions(self) -> int:
        """1, or 2 if bidirectional."""
        return 2 if self.bidirectional else 1

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self.directions]

    def reset_parameters(self) -> None:
        """Draw every parameter anew, uniform in ±1/sqrt(H); per-unit ones start where the cell says."""
        limit = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -limit, limit)
        for weights in (one for directions in self.weights() for one in directions):
            for name, value in self.cell.starts.items():
                assert weights.units is not None
                nn.init.constant_(weights.units[self.cell.unit_names.index(name)], value)

    def weights(self) -> list[list[Weights]]:
        """Return the weights of each layer and direction."""
        names = {"weight_ih": "ih", "weight_hh": "hh", "weight_hr": "hr", "units": "units"}
        names |= {"bias_ih": "bias_ih", "bias_hh": "bias_hh"}

        def of(suffix: str) -> Weights:
            return Weights(**{short: getattr(self, name + suffix, None) for name, short in names.items()})  # type: ignore[arg-type]

        return [[of(suffix) for suffix in self._suffixes(layer)] for layer in range(self.num_layers)]

    def forward(
        self,
        input: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        padding: Literal["right", "left"] = "right",
        resets: Tensor | None = None,
    ) -> Output:
        """Run the layer.

        Args:
            input: [T, B, D], or [B, T, D] with `batch_first`.
            state: the initial state, each tensor [layers * directions, B, H] (h [.., P] if projected); zeros if None.
            lengths: valid steps of each row, [B], in 0..T, in any order; padded steps change nothing and give zeros.
            padding: where the padding stands, after each row's valid steps ("right") or before them ("left").
            resets: bool, [T, B] or [B, T] as the input: steps before which a row begins anew, from a state of zeros.
                The backward direction, too, keeps the steps from one such place to the next to themselves.

        Returns:
            the last layer's outputs, laid out as the input, and the state after each row's own last step.

        Raises:
            InputError: a shape does not fit, a length is out of range, or a valid step holds NaN.
        """
        return Output(*self._run(input, state, lengths, padding, resets, trace=False)[:2])

    def trace(
        self,
        input: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        padding: Literal["right", "left"] = "right",
        resets: Tensor | None = None,
    ) -> Trace:
        """Run the layer and return the states and gates of every step, layer and direction as well.

        Arguments and errors are those of a call; shapes stand at `recur.layers.Trace`.

        >>> trace = Recurrent("lstm", 4, 8, num_layers=2).trace(torch.randn(5, 3, 4))
        >>> trace.states[1].c.shape, trace.gates[0]["f"].shape
        (torch.Size([5, 3, 8]), torch.Size([5, 3, 8]))
        """
        return self._run(input, state, lengths, padding, resets, trace=True)

    def stream(self, batch: int = 1) -> Stream:
        """Return a stream that takes one step at a time for `batch` rows and carries their state, see `recur.Stream`.

        Raises:
            InputError: the layer is bidirectional, or `batch` is not above 0.
        """
        return Stream(self, batch)

    def _run(
        self,
        input: Tensor,
        state: State | None,
        lengths: Tensor | Sequence[int] | None,
        padding: str,
        resets: Tensor | None,
        *,
        trace: bool,
    ) -> Trace:
        input = time_first(input, self.input_size, self.batch_first)
        steps, batch, _ = input.shape
        if lengths is not None:
            lengths = check_lengths(lengths, batch, steps, input.device)
        left = padded_left(padding)
        check_finite(input, lengths, left)
        result = run_stack(
            self.cell,
            self.weights(),
            input,
            self._initial(input, batch) if state is None else self._checked(state, batch),
            lengths,
            left=left,
            resets=None if resets is None else check_resets(resets, input, self.batch_first),
            dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            residual=self.residual,
            training=self.training,
            backend="auto" if trace and self.backend == "parallel" else self.backend,
            trace=trace,
            checkpoint=self.checkpoint,
        )
        return result.transposed() if self.batch_first else result

    def _shape(self, name: str, batch: int) -> list[int]:
        size = self.proj_size if name == "h" and self.proj_size else self.hidden_size
        return [self.num_layers * self.directions, batch, size]

    def _initial(self, input: Tensor, batch: int) -> State:
        return State(**{name: input.new_zeros(self._shape(name, batch)) for name in self.cell.state_names})

    def _checked(self, state: State, batch: int) -> State:
        if not isinstance(state, State) or sorted(dict(state.items())) != sorted(self.cell.state_names):
            wanted = ", ".join(f"{name}=..." for name in self.cell.state_names)
            raise InputError(f"`state` must be State({wanted}), got {type(state).__name__}")
        for name, value in state.items():
            if list(value.shape) != self._shape(name, batch):
                raise InputError(f"`state.{name}` must have shape {self._shape(name, batch)}, got {list(value.shape)}")
        return State(**{name: getattr(state, name) for name in self.cell.state_names})

    def extra_repr(self) -> str:
        """Return the sizes and whatever differs from the defaults."""
        defaults = dict(zip(_OPTIONS, (1, True, False, 0.0, False, 0, 0.0, False, "auto", None), strict=True))
        changed = [
            f"{name}={getattr(self, name)!r}" for name, value in defaults.items() if getattr(self, name) != value
        ]
        return ", ".join([repr(self.cell), str(self.input_size), str(self.hidden_size), *changed])


def _as_cell(cell: Cell | type[Cell] | str) -> Cell:
    if isinstance(cell, str):
        return cell_named(cell)
    if isinstance(cell, type) and issubclass(cell, Cell) and cell is not Cell:
        return cell()
    if isinstance(cell, Cell):
        return cell
    raise InputError(f"`cell` must be a Cell, a class of one or a name, got {cell!r}")
