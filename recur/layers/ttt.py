"""`TTTLinear`: a recurrent layer whose state is a linear model that learns at every step."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recur.cells.cell import State
from recur.errors import InputError
from recur.layers.recurrent import Output
from recur.layers.short_convolution import short_convolution
from recur.layers.stack import check_finite, check_lengths, padded_left, time_first
from recur.layers.ttt_scan import Models, Tokens, dual, reference
from recur.stream import as_rows

BACKENDS = {"dual": dual, "reference": reference}
# steps of the short convolution
REACH = 4


class TTTLinear(nn.Module):
    r"""TTT-Linear: the state of a head is the weight of a linear model, and a step is one of gradient descent on it.

    .. math::
        f(k; W, b) &= k + \operatorname{LN}(k W + b) \\
        \ell_t(W, b) &= \tfrac12 \lVert f(k_t; W, b) - v_t \rVert^2 \\
        W_t &= W_{t-1} - \eta_t \nabla \ell_t(W_{t'}, b_{t'}) \\
        z_t &= f(q_t; W_t, b_t)

    t' is the last step before t whose number is a multiple of `mini_batch`; b_t goes as W_t does. Before the first step
    they are W_0 and b_0 of the head, which are learned, as is the layer norm. With `forget`, a mini-batch begins not at
    W_{t'} but at W_0 + κ (W_{t'} - W_0), 0 < κ < 1 learned for each head.

    Around it, with u the layer norm of the input and c the SiLU of its convolution over the last 4 steps, feature by
    feature: q, k and v are linear in c, the step size is η = sigmoid(w u + a) / F with F = H / heads, and the output is
    O (LN(z) * gelu(G u)), z of all heads together. No residual connection goes from input to output: a stack wants one.

    Args:
        input_size: D, numbers per step.
        hidden_size: H.
        heads: how many linear models, of F = H / heads features each.
        mini_batch: tokens whose gradients are taken at the same weights; 1 is online gradient descent.
        forget: whether each head forgets, at a pace it learns: for rows that go on for long, whose weights else grow
            until a step hardly moves them.
        batch_first: whether input and output are `[B, T, *]` rather than `[T, B, *]`.
        backend: "dual", matrix products over the tokens of a mini-batch; or "reference", step by step.
        device, dtype: of the parameters.

    Raises:
        InputError: an argument is out of its range.

    Source: Sun et al. 2024, arXiv:2407.04620, sections 2.1-2.7; convolution and gate as in its appendix on the backbone
    of Mamba, with the convolution before the projections. Forgetting is not in the paper; it is as in Behrouz et al.
    2025, arXiv:2501.00663, equation 13, but towards W_0, and once in a mini-batch.

    >>> output, state = TTTLinear(4, 8, heads=2, batch_first=True)(torch.randn(3, 5, 4), lengths=[5, 3, 0])
    >>> output.shape, state.W.shape
    (torch.Size([3, 5, 8]), torch.Size([3, 2, 5, 4]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        heads: int = 8,
        mini_batch: int = 16,
        forget: bool = False,
        batch_first: bool = False,
        backend: Literal["dual", "reference"] = "dual",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("input_size", input_size),
            ("hidden_size", hidden_size),
            ("heads", heads),
            ("mini_batch", mini_batch),
        ):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"`{name}` must be a whole number above 0, got {value!r}")
        if hidden_size % heads or hidden_size == heads:
            raise InputError(
                f"`heads` must divide `hidden_size` into at least 2 features each, got {heads} of {hidden_size}"
            )
        if backend not in BACKENDS:
            raise InputError(f"`backend` must be one of {', '.join(BACKENDS)}, got {backend!r}")
        self.input_size, self.hidden_size, self.heads, self.mini_batch = input_size, hidden_size, heads, mini_batch
        self.batch_first, self.backend = batch_first, backend
        self.size = size = hidden_size // heads
        of: dict[str, Any] = {"device": device, "dtype": dtype}
        self.norm = nn.LayerNorm(input_size, **of)
        self.convolution = nn.Parameter(torch.empty(REACH, input_size, **of))
        self.query = nn.Linear(input_size, hidden_size, bias=False, **of)
        self.key = nn.Linear(input_size, hidden_size, bias=False, **of)
        self.value = nn.Linear(input_size, hidden_size, bias=False, **of)
        self.gate = nn.Linear(input_size, hidden_size, bias=False, **of)
        self.rate = nn.Linear(input_size, heads, **of)
        self.weight = nn.Parameter(torch.empty(heads, size + 1, size, **of))
        self.keep = nn.Parameter(torch.empty(heads, **of)) if forget else None
        self.scale = nn.Parameter(torch.empty(heads, size, **of))
        self.shift = nn.Parameter(torch.empty(heads, size, **of))
        self.out_norm = nn.LayerNorm(hidden_size, **of)
        self.out = nn.Linear(hidden_size, hidden_size, bias=False, **of)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter anew."""
        for part in (self.norm, self.query, self.key, self.value, self.gate, self.rate, self.out_norm, self.out):
            part.reset_parameters()
        with torch.no_grad():
            nn.init.normal_(self.rate.weight, std=0.02)
            # heads from slow to fast
            self.rate.bias.copy_(torch.linspace(-3, 1, self.heads))
            if self.keep is not None:
                self.keep.copy_(torch.linspace(7, 3, self.heads))
            nn.init.normal_(self.weight, std=0.02)
            self.weight[:, -1] = 0
            nn.init.ones_(self.scale)
            nn.init.zeros_(self.shift)
            nn.init.uniform_(self.convolution, -1 / math.sqrt(REACH), 1 / math.sqrt(REACH))

    def initial(self, batch: int) -> State:
        """Return the state before the first step of B rows, with gradient to W_0 and b_0.

        Returns:
            `W` [B, heads, F + 1, F], as the open mini-batch found it, the last row being b; `now`, the same after all
            steps so far; `place` [B], how many tokens the open mini-batch has; `recent` [3, B, D], normalized inputs of
            the last steps.
        """
        weight = self.weight.expand(batch, *self.weight.shape)
        place = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return State(W=weight, now=weight, place=place, recent=weight.new_zeros(REACH - 1, batch, self.input_size))

    def forward(
        self,
        input: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        padding: Literal["right", "left"] = "right",
    ) -> Output:
        """Run the layer.

        Args:
            input: [T, B, D], or [B, T, D] with `batch_first`.
            state: what an earlier call returned; `initial` if None. Pieces of any size give what the whole gives.
            lengths: valid steps of each row, [B], in 0..T, in any order; padded steps change nothing and give zeros.
            padding: where the padding stands, after each row's valid steps ("right") or before them ("left").

        Returns:
            outputs [T, B, H] or [B, T, H], and the state after each row's own last step.

        Raises:
            InputError: a shape does not fit, a length is out of range, or a valid step holds NaN.
        """
        input = time_first(input, self.input_size, self.batch_first)
        steps, batch, _ = input.shape
        given = None if lengths is None else check_lengths(lengths, batch, steps, input.device)
        left = padded_left(padding)
        check_finite(input, given, left)
        state = self.initial(batch) if state is None else self._checked(state, batch)
        if not steps or not batch or (given is not None and not given.any()):
            output = input.new_zeros(steps, batch, self.hidden_size)
        elif given is None:
            output, state = self._run(input, state, torch.full_like(state.place, steps))
        else:
            # a row's valid steps come first inside
            step = torch.arange(steps, device=input.device)[:, None]
            behind = steps - given if left else torch.zeros_like(given)
            valid = (step >= behind) & (step < behind + given)
            output, state = self._run(_moved(input.masked_fill(~valid[..., None], 0), step + behind), state, given)
            output = _moved(output, step - behind).masked_fill(~valid[..., None], 0)
        return Output(output.transpose(0, 1) if self.batch_first else output, state)

    def _run(self, input: Tensor, state: State, lengths: Tensor) -> tuple[Tensor, State]:
        """[T, B, D] -> [T, B, H], the first `lengths` [B] of which are valid."""
        values = self.norm(input)
        recent = torch.cat([state.recent, values])
        mixed = F.silu(short_convolution(recent, self.convolution))
        query, key, value = (part(mixed) for part in (self.query, self.key, self.value))
        rate = self.rate(values).sigmoid() / self.size
        told, W, now, place = self._learn([query, key, value, rate], state, lengths)
        output = self.out(self.out_norm(told) * F.gelu(self.gate(values), approximate="tanh"))
        last = torch.arange(REACH - 1, device=input.device)[:, None] + lengths
        return output, State(W=W, now=now, place=place, recent=_moved(recent, last))

    def _learn(self, parts: list[Tensor], state: State, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what the inner models say of the queries, [T, B, H], and W, now and place of the state after."""
        (steps, batch, _), heads, size = parts[0].shape, self.heads, self.mini_batch
        per_head = (-1, batch, *self.weight.shape)
        begun = state.place + lengths
        even = bool((state.place == state.place[0]).all() and (lengths == steps).all())
        if even:
            # what the open mini-batch has room for comes first
            first = min(size - int(state.place[0]), steps)
        else:
            # rows stand so that their mini-batches end together
            step = torch.arange(int(begun.max()), device=lengths.device)[:, None] - state.place
            empty = ((step < 0) | (step >= lengths))[..., None]
            parts = [_moved(part, step).masked_fill(empty, 0) for part in parts]
            first = min(size, len(step))
        sizes = [first] + [size] * ((len(parts[0]) - first) // size)
        sizes += [len(parts[0]) - sum(sizes)] * (sum(sizes) < len(parts[0]))

        tokens = Tokens(*(part.reshape(len(part), batch * heads, -1) for part in parts))
        kept = self._kept()
        fallen, opens = torch.lerp(self.weight, state.now, kept), _wide(state.place == 0)
        start, now = (torch.where(opens, fallen, given).flatten(0, 1) for given in (state.W, state.now))
        models = Models(start, now, self.weight.repeat(batch, 1, 1), kept.repeat(batch, 1, 1))
        scale, shift = (part.repeat(batch, 1) for part in (self.scale, self.shift))
        told, weights = BACKENDS[self.backend](tokens, models, scale, shift, sizes)
        told, weights = told.view(-1, batch, self.hidden_size), weights.view(per_head)
        if not even:
            told = _moved(told, torch.arange(steps, device=lengths.device)[:, None] + state.place)

        rows, none = torch.arange(batch, device=lengths.device), _wide(lengths == 0)
        now = weights[(begun + size - 1) // size, rows]
        # the mini-batch that is open: as it was found, or as it began here
        began = torch.lerp(self.weight, weights[begun // size, rows], kept)
        start = torch.where(_wide(begun < size), start.view(per_head)[0], began)
        start = torch.where(_wide(begun % size == 0), now, start)
        return told, torch.where(none, state.W, start), torch.where(none, state.now, now), begun % size

    def _kept(self) -> Tensor:
        keep = torch.ones_like(self.weight[:, 0, 0]) if self.keep is None else self.keep.sigmoid()
        return keep[:, None, None]

    def _checked(self, state: State, batch: int) -> State:
        own = self.initial(batch)
        if not isinstance(state, State) or [name for name, _ in state.items()] != [name for name, _ in own.items()]:
            wanted = ", ".join(f"{name}=..." for name, _ in own.items())
            raise InputError(f"`state` must be State({wanted}), got {type(state).__name__}")
        for name, value in own.items():
            found = getattr(state, name)
            if found.shape != value.shape:
                raise InputError(f"`state.{name}` must have shape {list(value.shape)}, got {list(found.shape)}")
        return state

    def stream(self, batch: int = 1) -> "TTTStream":
        """Return a stream that takes one step at a time for `batch` rows and carries their state.

        Raises:
            InputError: `batch` is not above 0.
        """
        return TTTStream(self, batch)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.input_size}, {self.hidden_size}, heads={self.heads}, mini_batch={self.mini_batch}"


def _wide(rows: Tensor) -> Tensor:
    return rows[:, None, None, None]


def _moved(part: Tensor, step: Tensor) -> Tensor:
    """Return `part` [T, B, ..] at other steps of each row, [S, B], modulo T: something, where there is no such step."""
    moved: Tensor = part[step % len(part), torch.arange(part.shape[1], device=part.device)]
    return moved


class TTTStream:
    """Rows that are read step by step, each from its own carried state; `TTTLinear.stream` makes one.

    No gradient flows. One thread at a time may call it.

    Args:
        layer: whose weights.
        batch: B, the rows.

    Raises:
        InputError: `batch` is not above 0.

    >>> stream = TTTLinear(4, 8, heads=2).stream(batch=2)
    >>> stream.step(torch.randn(2, 4)).shape
    torch.Size([2, 8])
    """

    def __init__(self, layer: TTTLinear, batch: int = 1) -> None:
        if not isinstance(batch, int) or batch < 1:
            raise InputError(f"`batch` must be a whole number above 0, got {batch!r}")
        self.batch, self._layer = batch, layer
        with torch.no_grad():
            self.state = layer.initial(batch)

    def step(self, x: Tensor) -> Tensor:
        """Take one step of every row: x [B, D] -> outputs [B, H].

        Raises:
            InputError: x has another shape.
        """
        if not isinstance(x, Tensor) or x.shape != (self.batch, self._layer.input_size):
            found = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"`x` must be [B, D] = {[self.batch, self._layer.input_size]}, got {found}")
        return self.steps(x[:, None])[:, 0]

    @torch.no_grad()
    def steps(self, x: Tensor) -> Tensor:
        """Take several steps of every row: x [B, T, D] -> outputs [B, T, H].

        Raises:
            InputError: x has another shape.
        """
        layer = self._layer
        output: Tensor
        output, self.state = layer(x if layer.batch_first else x.transpose(0, 1), self.state)
        return output if layer.batch_first else output.transpose(0, 1)

    @torch.no_grad()
    def reset(self, rows: Sequence[int] | Tensor | None = None) -> None:
        """Begin anew, from W_0 and b_0, in some rows (numbers in 0..B-1, or a mask, bool [B]) or in all.

        Raises:
            InputError: there is no such row.
        """
        index = as_rows(rows, self.batch)
        fresh = self._layer.initial(self.batch)
        # the state that was handed out is not written to
        new = {}
        for name, value in self.state.items():
            rows_of = 1 if name == "recent" else 0
            to = index.to(value.device)
            new[name] = value.index_copy(rows_of, to, getattr(fresh, name).index_select(rows_of, to))
        self.state = State(**new)
