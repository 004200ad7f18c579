"""What a cell is: one step of a recurrence, written as its equation.

    class GRU(Cell):
        gates = "r z n"

        def step(x, U, s):
            r = sigmoid(x.r + U.r(s.h))
            z = sigmoid(x.z + U.z(s.h))
            n = tanh(x.n + r * U.n(s.h))
            return State(h=(1 - z) * n + z * s.h)

`x.g` is the input's share of gate `g`, W_g x_t + b_g, with shape [B, H]; `U.g(v)` is the recurrent product of gate `g`
with a vector v, [B, H] -> [B, H]; `s` holds the states of the step before. More arguments may be asked for by name:
`p`, per-unit parameters [H] such as peepholes (`units` names them), `P`, the projection [B, H] -> [B, P]
(`projected = True`), and `m`, masks [B, H] that are drawn anew at every step (`masks` names them, `mask_rates` says how
often each is 1), as zoneout needs. A cell holds no weights: a layer owns them and hands them in, so one equation serves
every layer.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import GetAttrKey, register_pytree_node

from recur.errors import InputError

T = TypeVar("T")


class State:
    """The named states of a cell, such as `State(h=..., c=...)`; `state.h` is the output.

    Inside a cell each is [B, H]; as a layer's initial or final state [layers * directions, B, H].
    """

    __slots__ = ("_values",)
    _values: dict[str, Tensor]

    def __init__(self, **values: Tensor) -> None:
        object.__setattr__(self, "_values", values)

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("__") or name == "_values":  # copy and pickle look before the slot is filled
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"the state holds {', '.join(self._values)}, not {name!r}") from None

    def __setattr__(self, name: str, value: Tensor) -> None:
        raise AttributeError("a State is not changed in place: return a new one from `step`")

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._values.values())

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"State({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    def __getstate__(self) -> dict[str, Tensor]:
        return self._values

    def __setstate__(self, values: dict[str, Tensor]) -> None:
        object.__setattr__(self, "_values", values)

    def items(self) -> list[tuple[str, Tensor]]:
        """Return the (name, tensor) pairs in the cell's order."""
        return list(self._values.items())

    def map(self, function: Callable[[Tensor], Tensor]) -> "State":
        """Return a state with `function` applied to every tensor."""
        return State(**{name: function(value) for name, value in self._values.items()})


# torch.func, torch.export and others look inside
register_pytree_node(
    State,
    lambda state: (list(state), list(state._values)),
    lambda values, names: State(**dict(zip(names, values, strict=True))),
    serialized_type_name="recur.State",
    flatten_with_keys_fn=lambda state: ([(GetAttrKey(n), v) for n, v in state.items()], list(state._values)),
)


class Named(Generic[T]):
    """Values by name, read as attributes: `x.r`, `U.z`, `p.f`."""

    __slots__ = ("_kind", "_values")

    def __init__(self, kind: str, values: Mapping[str, T]) -> None:
        self._kind, self._values = kind, values

    def __getattr__(self, name: str) -> T:
        # copy, pickle and torch.compile look before the slots are filled
        if name.startswith("__") or name in Named.__slots__:
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            known = ", ".join(self._values) or "none"
            raise AttributeError(f"the cell has no {self._kind} {name!r}; it declares: {known}") from None


Gates = Named[Tensor]
Products = Named[Callable[[Tensor], Tensor]]
Units = Named[Tensor]
Projection = Callable[[Tensor], Tensor]


class Cell:
    """Base of every recurrence; subclasses say `gates`, `state` and `step`.

    Attributes:
        gates: the gates' names, separated by spaces, in the order in which their weights are stacked.
        recurrent: those of the gates that have a recurrent product, and so a matrix U; all of them by default.
        state: the states' names; `h` is the output and must be among them.
        units: names of per-unit parameters [H], handed to `step` as `p`.
        masks: names of per-step masks [B, H], handed to `step` as `m`.
        mask_rates: the probability of 1 of each mask, by name. In training a layer draws 0 or 1 for every step, row and
            unit; in evaluation the mask is that probability.
        starts: value that a per-unit parameter starts at, by name; the others are drawn like the weights.
        keep: the gate that keeps the state when it is open, such as an LSTM's "f", with a minus if when it is shut.
        write: the gate that lets new values in, where it is another than that, such as an LSTM's "i".
        projected: whether `h` is projected from H to P units by `P` (Sak et al. 2014, arXiv:1402.1128).
        kernel: name of the torch kernel that computes exactly this equation, or None. A subclass that changes the
            equation does not inherit it.

    Errors:
        InputError when the class is defined: `h` is no state, a name is no identifier or is used twice,
        or `step` asks for something other than x, U, s, p, P, m.
    """

    gates: ClassVar[str]
    recurrent: ClassVar[str | None] = None
    state: ClassVar[str] = "h"
    units: ClassVar[str] = ""
    masks: ClassVar[str] = ""
    starts: ClassVar[Mapping[str, float]] = {}
    keep: str = ""
    write: str = ""
    projected: ClassVar[bool] = False
    kernel: str | None = None

    _arguments: ClassVar[tuple[str, ...]]
    _changed: ClassVar[bool] = False

    step: Callable[..., State]

    def __init_subclass__(cls) -> None:
        """Check the declaration once, where the class is written."""
        declared = {"step", "gates", "recurrent", "state", "units", "masks", "projected"} & vars(cls).keys()
        if "kernel" in vars(cls):
            cls._changed = False
        elif hasattr(cls, "_arguments") and declared:
            cls._changed = True
        if "step" not in cls.__dict__ and not hasattr(cls, "_arguments"):
            raise InputError(f"cell {cls.__name__} must define `step(x, U, s)`")
        if not hasattr(cls, "gates"):
            raise InputError(f"cell {cls.__name__} must name its gates, such as gates = 'r z n'")
        for kind in ("gates", "recurrent", "state", "units", "masks"):
            names = (getattr(cls, kind) or "").split()
            bad = [name for name in names if not name.isidentifier() or names.count(name) > 1]
            if bad:
                raise InputError(f"cell {cls.__name__}: `{kind}` must be distinct names, found {bad[0]!r}")
        if "h" not in cls.state.split():
            raise InputError(f"cell {cls.__name__}: `state` must name the output `h`, found {cls.state!r}")
        for kind, names, known in (
            ("recurrent", (cls.recurrent or "").split(), "gates"),
            ("starts", cls.starts, "units"),
        ):
            for name in names:
                if name not in getattr(cls, known).split():
                    raise InputError(f"cell {cls.__name__}: `{kind}` must name some of its `{known}`, found {name!r}")
        if "step" in cls.__dict__:
            cls._set_step(cls.__dict__["step"])

    @classmethod
    def _set_step(cls, step: Any) -> None:
        # an equation needs no self: `def step(x, U, s)` becomes a static method
        function = step.__func__ if isinstance(step, staticmethod) else step
        names = list(inspect.signature(function).parameters)
        if names and names[0] == "self":
            names = names[1:]
        else:
            cls.step = staticmethod(function)
        unknown = [name for name in names if name not in ("x", "U", "s", "p", "P", "m")]
        if unknown:
            raise InputError(
                f"cell {cls.__name__}: `step` may ask for x, U, s, p, P and m, found {unknown[0]!r} "
                f"({function.__code__.co_filename}, line {function.__code__.co_firstlineno})"
            )
        cls._arguments = tuple(names)

    @property
    def torch_kernel(self) -> str | None:
        """The name of torch's kernel for just this equation, or None."""
        return None if self._changed else self.kernel

    @property
    def gate_names(self) -> tuple[str, ...]:
        """The gates' names, in weight order."""
        return tuple(self.gates.split())

    @property
    def recurrent_names(self) -> tuple[str, ...]:
        """The names of the gates with a recurrent product, in weight order."""
        return self.gate_names if self.recurrent is None else tuple(self.recurrent.split())

    @property
    def state_names(self) -> tuple[str, ...]:
        """The states' names."""
        return tuple(self.state.split())

    @property
    def unit_names(self) -> tuple[str, ...]:
        """The per-unit parameters' names."""
        return tuple(self.units.split())

    @property
    def mask_names(self) -> tuple[str, ...]:
        """The per-step masks' names."""
        return tuple(self.masks.split())

    @property
    def mask_rates(self) -> Mapping[str, float]:
        """The probability of 1 of each mask, by name; a subclass with masks says it."""
        return {}

    def advance(self, x: Gates, U: Products, s: State, p: Units, P: Projection | None, m: Units | None = None) -> State:
        """Return the state after one step; `step` gets those of the arguments that it asks for."""
        given = {"x": x, "U": U, "s": s, "p": p, "P": P, "m": m}
        new = self.step(**{name: given[name] for name in self._arguments})
        if not isinstance(new, State) or tuple(new._values) != self.state_names:
            # the order of keywords in `State(...)` is free
            if isinstance(new, State) and sorted(new._values) == sorted(self.state_names):
                return State(**{name: new._values[name] for name in self.state_names})
            found = ", ".join(new._values) if isinstance(new, State) else type(new).__name__
            wanted = ", ".join(f"{name}=..." for name in self.state_names)
            raise InputError(f"cell {type(self).__name__}: `step` must return State({wanted}), found {found}")
        return new

    def __repr__(self) -> str:
        options = ", ".join(
            f"{name}={value!r}" for name, value in vars(self).items() if name not in ("kernel", "keep", "write")
        )
        return f"{type(self).__name__}({options})"


def stand_for(outer: Cell, inner: Cell | type[Cell]) -> Cell:
    """Declare for `outer`, a cell around another, what `inner` declares for its class; return the cell inside.

    Masks and their rates are among it, and `outer` may add its own.
    """
    cell = inner() if isinstance(inner, type) else inner
    for name in ("gates", "recurrent", "state", "units", "masks", "starts", "keep", "write", "projected"):
        vars(outer)[name] = getattr(cell, name)
    return cell


def sigmoid(v: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-v)), elementwise."""
    return v.sigmoid()


def tanh(v: Tensor) -> Tensor:
    """Return the hyperbolic tangent, elementwise."""
    return v.tanh()


def relu(v: Tensor) -> Tensor:
    """Return max(v, 0), elementwise."""
    return v.relu()


def exp(v: Tensor) -> Tensor:
    """Return e to the power v, elementwise."""
    return v.exp()


def log(v: Tensor) -> Tensor:
    """Return the natural logarithm, elementwise."""
    return v.log()


def maximum(v: Tensor, w: Tensor | float) -> Tensor:
    """Return the larger of v and w, elementwise."""
    if isinstance(v, Tensor) and not isinstance(w, Tensor):
        w = torch.as_tensor(w, dtype=v.dtype, device=v.device)
    return v.maximum(w)


def minimum(v: Tensor, w: Tensor | float) -> Tensor:
    """Return the smaller of v and w, elementwise."""
    if isinstance(v, Tensor) and not isinstance(w, Tensor):
        w = torch.as_tensor(w, dtype=v.dtype, device=v.device)
    return v.minimum(w)


def where(condition: Tensor, v: Tensor | float, w: Tensor | float) -> Tensor:
    """Return v where the condition holds, such as `x.a > 0`, and w elsewhere, elementwise."""
    return torch.where(condition, v, w)


def clip_gradient(v: Tensor, bound: float) -> Tensor:
    """Return v, and on the way back bring every number of its gradient into [-bound, bound].

    It is for the reverse mode: forward-mode derivatives, such as `torch.func.jvp`, are those of the value, which is v.
    What is clipped is the gradient of no function, so that it cannot be differentiated again.

    Args:
        v: any value of an equation, or a tensor.
        bound: a number above 0.

    Raises:
        InputError: `bound` is no positive number; or, on the way back, a gradient of the gradient is asked for.

    Source: Graves 2013, arXiv:1308.0850, section 2.1, who clips where the activations are applied.

    >>> v = torch.ones(3, requires_grad=True)
    >>> (clip_gradient(v, 1.0) * torch.tensor([0.5, 7.0, -7.0])).sum().backward()
    >>> v.grad
    tensor([ 0.5000,  1.0000, -1.0000])
    """
    if not isinstance(bound, int | float) or not bound > 0:
        raise InputError(f"`bound` must be a number above 0, got {bound!r}")
    if not isinstance(v, Tensor):
        return v.clip_gradient(bound)
    # torch.compile refuses functions that say what forward mode is to do
    function = _ClipGradient if torch.compiler.is_compiling() else _ClipGradientOfDual
    result: Tensor = function.apply(v, bound)  # type: ignore[no-untyped-call]
    return result


class _ClipGradient(torch.autograd.Function):
    """What `clip_gradient` does to tensors."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, bound: float) -> Tensor:
        return v.view_as(v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.bound = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return grad.clamp(-ctx.bound, ctx.bound), None
        clipped: Tensor = _Clipped.apply(grad, ctx.bound)  # type: ignore[no-untyped-call]
        return clipped, None


class _Clipped(torch.autograd.Function):
    """A clipped gradient, which is not to be differentiated again: a result would depend on the way it is computed."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, bound: float) -> Tensor:
        return grad.clamp(-bound, bound)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        raise InputError(
            "a gradient that `clip_gradient` has clipped is that of no function and cannot be differentiated again; "
            "take the cell without clipping, such as `ClippedGradient.cell`, for gradients of gradients"
        )

    jvp = backward


class _ClipGradientOfDual(_ClipGradient):
    """The same, with forward mode."""

    @staticmethod
    def jvp(ctx: Any, d_v: Tensor, d_bound: None) -> Tensor:
        return d_v.view_as(d_v)


def mean(v: Tensor) -> Tensor:
    """Return the mean over the units: [B, H] -> [B, 1]."""
    return v.mean(-1, keepdim=True)


def normalize(v: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Return v with mean 0 and variance 1 over the units of each row, Ba et al. 2016, arXiv:1607.06450, eq. 3."""
    centred = v - mean(v)
    return centred * (mean(centred * centred) + epsilon) ** -0.5
