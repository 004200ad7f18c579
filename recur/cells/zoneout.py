"""Zoneout around any cell, and the masks that a layer draws for it and for a cell of one's own."""

from collections.abc import Mapping

import torch
from torch import Tensor

from recur.cells.cell import Cell, Gates, Products, Projection, State, Units, stand_for
from recur.errors import InputError


class Zoneout(Cell):
    r"""Any cell whose units keep their old state at random, Krueger et al. 2016, arXiv:1606.01305, eq. 5 and 6.

    .. math:: s_t = m_t \odot s_{t-1} + (1 - m_t) \odot \tilde s_t \quad\text{with}\ \tilde s_t\ \text{as in the cell}

    In training m_t is drawn anew for every step, row and unit, 1 with the given probability; in evaluation it is that
    probability. Each new state is made of the cell's own ones: the mask of c has no part in h_t.

    Shapes: as the cell; m_t [B, H].

    Args:
        cell: the cell, or a class of one.
        h: probability that a unit keeps its output.
        c: probability that it keeps its memory: all states besides h, together. Of no effect where there is none.

    Raises:
        InputError: a probability is not in 0..1, h is above 0 for a projected cell, or a cell has masks of these names.

    >>> layer = Recurrent(Zoneout(CELLS["lstm"](), h=0.05, c=0.5), input_size=4, hidden_size=8)
    >>> layer(torch.randn(5, 2, 4)).output.shape
    torch.Size([5, 2, 8])
    """

    gates = ""

    def __init__(self, cell: Cell | type[Cell], *, h: float = 0.1, c: float = 0.1) -> None:
        self.cell = stand_for(self, cell)
        for name, rate in (("h", h), ("c", c)):
            if not 0 <= rate <= 1:
                raise InputError(f"`{name}` must be a probability in 0..1, got {rate}")
        if h and self.cell.projected:
            raise InputError(f"`h` must be 0 for {self.cell!r}, whose output is projected, got {h}; `c` may be above 0")
        self.h, self.c = float(h), float(c) if len(self.cell.state_names) > 1 else 0.0
        own = [name for name in ("h", "c") if getattr(self, name)]
        if taken := set(own) & set(self.cell.mask_names):
            raise InputError(f"`cell` must have no mask {min(taken)!r} of its own, got {self.cell!r}")
        vars(self)["masks"] = " ".join([*own, *self.cell.mask_names])

    @property
    def mask_rates(self) -> Mapping[str, float]:
        """The probability of 1 of each mask, by name."""
        return {"h": self.h, "c": self.c, **self.cell.mask_rates}

    def step(self, x: Gates, U: Products, s: State, p: Units, P: Projection | None, m: Units) -> State:
        """Return the states after one step, some units' as before."""
        new = self.cell.advance(x, U, s, p, P, m)
        kept = {}
        for name, value in new.items():
            kept[name] = value
            if self.h if name == "h" else self.c:
                mask = m.h if name == "h" else m.c
                kept[name] = mask * getattr(s, name) + (1 - mask) * value
        return State(**kept)

    def __repr__(self) -> str:
        return f"Zoneout({self.cell!r}, h={self.h}, c={self.c})"


def masks_for(cell: Cell, steps: int, like: Tensor, *, draw: bool) -> Tensor | None:
    """Return the masks [M, T, B, H] of a cell that asks for some, in its order.

    Args:
        cell: the cell.
        steps: T.
        like: a tensor [B, H] of the type and device that the masks are to have.
        draw: whether to draw them, by torch's generator, rather than to take their expectation.

    Raises:
        InputError: the cell does not say how often a mask is 1.
    """
    names, rates = cell.mask_names, cell.mask_rates
    for name in names:
        if not 0 <= rates.get(name, -1.0) <= 1:
            raise InputError(
                f"cell {type(cell).__name__}: `mask_rates` must give the probability of 1, in 0..1, of each mask of "
                f"{', '.join(names)}, got {rates.get(name)} for {name!r}"
            )
    if not names:
        return None
    shape = (len(names), steps, *like.shape)
    if draw:
        masks = like.new_empty(shape)
        for mask, name in zip(masks, names, strict=True):
            mask.bernoulli_(rates[name])
        return masks
    # one row of each serves all steps and rows
    expected = torch.tensor([rates[name] for name in names], dtype=like.dtype, device=like.device)
    return expected[:, None].repeat(1, like.shape[1])[:, None, None].expand(shape)
