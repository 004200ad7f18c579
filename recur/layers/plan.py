"""What exact BPTT with chosen memory keeps, and what it costs: the plan of `checkpoint=`."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from recur.errors import InputError
from recur.layers.schedule import advances, kept_at

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
_BYTES = re.compile(r"(\d+(?:\.\d*)?)\s*([KMG]I?|)B", re.IGNORECASE)


@dataclass(frozen=True)
class CheckpointPlan:
    """What `checkpoint=` does for T steps of B rows; printed, it is a line for each."""

    steps: int
    """T."""
    batch: int
    """B."""
    segments: int
    """Parts of the sequence; 1 where it is run as a whole, and nothing again."""
    segment_length: int
    """Steps of the longest one."""
    kept_states: int
    """States that are held at once at most, the initial one not counted."""
    extra_forward: float
    """Forward steps that are run again, as a share of T: 1 is every step once more."""
    state_bytes: int
    """Of one kept state, all layers and directions together."""
    segment_bytes: int
    """What the backward of a segment needs."""
    mask_bytes: int
    """Of the masks of dropout and zoneout for all steps, in training: a bit for each number."""
    drawing_bytes: int
    """What the largest of these takes while it is drawn."""
    plain_bytes: int
    """What is kept without checkpoint."""

    @property
    def peak_bytes(self) -> int:
        """The most that is held at once besides weights, inputs, outputs and the gradients of these."""
        return max(self.kept_states * self.state_bytes + self.segment_bytes, self.drawing_bytes) + self.mask_bytes

    def __str__(self) -> str:
        kept = f"{self.kept_states} states of {_said(self.state_bytes)}"
        lines = {
            "sequence": f"{self.steps} steps, {self.batch} rows",
            "segments": f"{self.segments} of up to {self.segment_length} steps, {_said(self.segment_bytes)} each",
            "kept": kept + f", masks of {_said(self.mask_bytes)}" * bool(self.mask_bytes),
            "peak": f"{_said(self.peak_bytes)}, without checkpoint {_said(self.plain_bytes)}",
            "cost": f"{self.extra_forward:.2f} times the forward pass is run again",
        }
        return "\n".join(f"{name:<10} {text}" for name, text in lines.items())


class Needs(NamedTuple):
    """How many bytes there are of each."""

    state: int
    """Of a state, all layers and directions together."""
    step: int
    """Of a step of a segment that is differentiated."""
    masks: int
    """Of a step's masks, as bits."""
    drawing: int
    """Of a step of the largest mask while it is drawn."""


class Parts(NamedTuple):
    """In how many segments a sequence is run, and how many places there are for states, with the initial one."""

    segments: int
    places: int


def check_checkpoint(checkpoint: int | str | None) -> int | str | None:
    """Return `checkpoint`.

    Raises:
        InputError: it is neither "sqrt", a number of states above 0, an amount of memory such as "500MB", nor None.
    """
    if checkpoint is None or checkpoint == "sqrt":
        return checkpoint
    if isinstance(checkpoint, int) and not isinstance(checkpoint, bool) and checkpoint > 0:
        return checkpoint
    if isinstance(checkpoint, str) and _BYTES.fullmatch(checkpoint):
        return checkpoint
    raise InputError(
        "`checkpoint` must be 'sqrt', a number of kept states above 0, an amount of memory such as '500MB', or None, "
        f"got {checkpoint!r}"
    )


def parts_of(checkpoint: int | str | None, steps: int, needs: Callable[[], Needs]) -> Parts:
    """Return the number of segments and of places for states.

    Args:
        checkpoint: as the layers take it.
        steps: T.
        needs: measures the bytes; asked only where `checkpoint` is an amount of memory.

    Raises:
        InputError: the memory is too small for any plan; the least is named.
    """
    if checkpoint is None:
        return Parts(1, 1)
    root = math.isqrt(steps - 1) + 1
    if checkpoint == "sqrt":
        return Parts(root, root)
    if isinstance(checkpoint, int):
        places = min(checkpoint + 1, steps)
        return Parts(max(places, root), places)
    found = _BYTES.fullmatch(checkpoint)
    assert found is not None
    return _within(int(float(found[1]) * _UNITS[found[2].upper()]), steps, needs())


@lru_cache(maxsize=64)
def _within(budget: int, steps: int, needs: Needs) -> Parts:
    """Return the plan that runs the fewest steps again within `budget` bytes, and of those the one in fewest parts."""
    state, step, masks, drawing = needs
    left = budget - masks * steps
    options: list[tuple[float, int, int]] = []
    length, least = steps, max(state + step, drawing * steps)
    while length and left >= least:
        segments = -(-steps // length)
        kept = min((left - length * step) // state, segments - 1)
        if kept >= min(1, segments - 1):
            options.append((advances(segments, kept + 1) / (segments - 1 or 1), segments, kept + 1))
        length = min(length - 1, length * 9 // 10)
    if not options:
        raise InputError(
            f"`checkpoint` of {_said(budget)} is too little for {steps} steps: the least is "
            f"{_said(least + masks * steps)}, for a state and a step of {_said(state + step)}"
            + f" and for the masks, {_said(max(masks, drawing) * steps)} while they are drawn"
            * bool(masks)
        )
    return Parts(*min(options)[1:])


def plan_for(parts: Parts, steps: int, batch: int, needs: Needs) -> CheckpointPlan:
    """Return the plan with these segments and places."""
    segments, places = parts
    length = -(-steps // segments)
    return CheckpointPlan(
        steps=steps,
        batch=batch,
        segments=segments,
        segment_length=length,
        kept_states=min(places, segments) - 1,
        extra_forward=_extra(segments, places),
        state_bytes=needs.state,
        segment_bytes=length * needs.step,
        mask_bytes=steps * needs.masks if segments > 1 else 0,
        drawing_bytes=steps * needs.drawing if segments > 1 else 0,
        plain_bytes=steps * needs.step,
    )


def _extra(segments: int, places: int) -> float:
    if segments == 1:
        return 0.0
    # each segment is run once more to be differentiated, and the forward pass has already run to where it kept states
    return 1 + (advances(segments, places) - max(kept_at(segments, places), default=0)) / segments


def _said(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
