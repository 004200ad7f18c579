"""The recurrent forecaster: a window of series, and what is known in advance, to the steps behind it."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from recur.errors import InputError
from recur.models.config import Config

FORMS = ["segments", "direct", "recursive"]
NORMALISATIONS = ["none", "last", "window"]
DISTRIBUTIONS = ["normal", "student-t"]
LOSSES = ["mse", "mae", "huber"]
LEAST_SCALE = 1e-3


@dataclass(frozen=True)
class ForecasterConfig(Config):
    """All that a `Forecaster` is built from; `dataclasses.asdict` and `ForecasterConfig(**...)` are its JSON form.

    Raises:
        InputError: a value out of its range.
    """

    window: int
    """L, steps that are seen."""
    horizon: int
    """H, steps that are foretold."""
    values: int = 1
    """V, numbers of a step, the targets first."""
    targets: int = 1
    """C, how many of them are foretold."""
    flags: bool = False
    """Behind the values of a step stands for each of them whether it was missing."""
    known: int = 0
    """K, numbers of a step that are known in advance."""
    static: int = 0
    """S, numbers of a series."""
    channels: int = 0
    """How many channels have a vector each; 0 for none."""
    form: str = "segments"
    """"segments": a step of the network is a segment of the window, and all segments of the horizon are read off at
    once; "direct": all steps of the horizon from the state after the window; "recursive": one step, fed back."""
    segment: int = 1
    """w, steps of a segment."""
    normalise: str = "last"
    """What each window is freed of: "none", "last", its last values, "window", its mean and standard deviation."""
    loss: str = "mae"
    """Of a single forecast: "mse", "mae" or "huber"."""
    quantiles: tuple[float, ...] = ()
    """Foretell these instead, rising, 0.5 among them."""
    distribution: str | None = None
    """Foretell "normal" or "student-t" distributions instead."""
    cell: str = "gru"
    """A name in `recur.cells.CELLS`."""
    layers: int = 1
    """Recurrent layers, one on top of the other."""
    hidden_size: int = 128
    """Units of each layer."""
    dropout: float = 0.0
    """Share of the outputs zeroed in training after every layer, before the forecast too."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantiles", tuple(self.quantiles))
        least = {"window": 1, "horizon": 1, "values": 1, "targets": 1, "known": 0, "static": 0, "channels": 0}
        self.require_whole(**least, segment=1, layers=1, hidden_size=1)
        choices = (("form", FORMS), ("normalise", NORMALISATIONS), ("loss", LOSSES))
        for name, known in (*choices, ("distribution", DISTRIBUTIONS)):
            if name != "distribution" or self.distribution is not None:
                self.require_choice(name, known)
        if self.targets > self.values:
            raise InputError(f"targets must be at most values, {self.values}, got {self.targets}")
        if self.form == "segments" and self.window % self.segment:
            raise InputError(f"segment must divide window, {self.window}, got {self.segment}")
        if self.form == "recursive" and self.targets < self.values:
            raise InputError(f"form 'recursive' feeds back its forecast: targets must be all {self.values} values")
        if self.form == "recursive" and self.quantiles and not self.distribution:
            raise InputError("form 'recursive' draws paths and needs a distribution for quantiles")
        check_quantiles(self.quantiles)
        self.require_shares("dropout")
        self.check_remedies(self.layers)

    @property
    def numbers(self) -> int:
        """P, how many numbers stand for a value that is foretold: itself, its quantiles, or mean and scale."""
        return 2 if self.distribution else max(1, len(self.quantiles))


def check_quantiles(levels: tuple[float, ...], name: str = "quantiles") -> None:
    """Raise InputError for levels that do not rise within 0..1 or have no median."""
    rising = all(low < high for low, high in zip((0.0, *levels), (*levels, 1.0), strict=True))
    if levels and (not rising or 0.5 not in levels):
        raise InputError(f"{name} must rise between 0 and 1 with 0.5 among them, got {', '.join(map(str, levels))}")


class Window(NamedTuple):
    """What windows are freed of, and forecasts given back."""

    shift: Tensor
    """[B, 1, V]."""
    scale: Tensor
    """[B, 1, V]."""


class Forecaster(nn.Module):
    """Read a window and foretell the steps behind it.

    Form "segments" is that of Lin et al. 2023 (SegRNN), arXiv:2308.11200, section 3: the window is cut into segments,
    each is projected to the width of the network, and the state after the last is read once for each segment of the
    horizon, with a vector for its place and one for the channel, all of them in parallel. "direct" and "recursive" are
    the direct and the iterated strategy (Ben Taieb et al. 2012, arXiv:1108.3259). Normalisation "window" is that of
    Kim et al. 2022 (RevIN), without weights.

    Args:
        config: the sizes and options.

    Raises:
        InputError: an unknown cell.

    >>> model = Forecaster(ForecasterConfig(window=12, horizon=5, segment=4, hidden_size=8))
    >>> model(torch.randn(3, 12, 1)).shape
    torch.Size([3, 5, 1, 1])
    """

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        self.config = config
        hidden, out = config.hidden_size, config.targets * config.numbers
        step = config.values * (2 if config.flags else 1) + config.known
        # one vector for each channel, beside the place of a segment or the values of a step
        width = hidden - hidden // 2 if config.form == "segments" else min(16, hidden)
        self.channel = nn.Embedding(config.channels, width) if config.channels else None
        own = config.static + (width if config.channels else 0)
        dropout = config.dropout if config.layers > 1 else 0.0
        if config.form == "segments":
            self.project = nn.Linear(config.segment * step, hidden)
            count = -(-config.horizon // config.segment)
            self.place = nn.Parameter(torch.randn(count, hidden // 2 if config.channels else hidden))
            given = config.segment * config.known + config.static
            self.given = nn.Linear(given, hidden, bias=False) if given else None
            self.recurrent = config.layer(config.cell, hidden, hidden, config.layers, dropout=dropout)
            self.readout = nn.Linear(hidden, config.segment * out)
        else:
            self.recurrent = config.layer(config.cell, step + own, hidden, config.layers, dropout=dropout)
            self.readout = nn.Linear(hidden, out * (config.horizon if config.form == "direct" else 1))
            self.given = None
            if config.form == "direct" and config.known:
                self.given = nn.Linear(config.known + hidden, hidden)
                self.ahead = nn.Linear(hidden, out)
        self.dropout = nn.Dropout(config.dropout)
        # degrees of freedom of Student's t, one for all
        self.tail = nn.Parameter(torch.tensor(2.0)) if config.distribution == "student-t" else None

    def forward(
        self,
        window: Tensor,
        known: Tensor | None = None,
        static: Tensor | None = None,
        channel: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        """Return the forecast, [B, H, C, P]; P numbers are a value, its quantiles, or mean and scale.

        Args:
            window: [B, L, V], with `flags` [B, L, 2 V].
            known: [B, L + H, K].
            static: [B, S].
            channel: int64 [B].
            given: [B, H, C], with "recursive" the true values, each of which is read for the next; None to read what
                was foretold.

        Raises:
            InputError: a shape does not fit.
        """
        self._check(window, known, static, channel)
        values = self.config.values
        freed = self._freed(window[..., :values])
        inputs = (window[..., :values] - freed.shift) / freed.scale
        inputs = torch.cat([inputs, window[..., values:]], dim=-1)
        own = self._own(static, channel, len(window), inputs)
        if self.config.form == "segments":
            made = self._segments(inputs, known, static, channel)
        elif self.config.form == "direct":
            made = self._direct(inputs, known, own)
        else:
            made = self._recursive(inputs, known, own, given, freed)
        return self._back(made, freed)

    @torch.no_grad()
    def paths(
        self,
        window: Tensor,
        known: Tensor | None = None,
        static: Tensor | None = None,
        channel: Tensor | None = None,
        *,
        count: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Return paths drawn from a "recursive" distribution, each step given the one drawn before, [count, B, H, C].

        Args:
            window, known, static, channel: as for a call.
            count: how many paths.
            generator: of the draws.
        """

        def wide(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.repeat(count, *[1] * (value.dim() - 1))

        rows = len(window)
        window, values = window.repeat(count, 1, 1), self.config.values
        freed = self._freed(window[..., :values])
        inputs = torch.cat([(window[..., :values] - freed.shift) / freed.scale, window[..., values:]], dim=-1)
        own = self._own(wide(static), wide(channel), len(window), inputs)
        drawn = self._recursive(inputs, wide(known), own, None, freed, generator)[..., 0]
        drawn = drawn * freed.scale[..., : self.config.targets] + freed.shift[..., : self.config.targets]
        return drawn.view(count, rows, self.config.horizon, self.config.targets)

    def _check(self, window: Tensor, known: Tensor | None, static: Tensor | None, channel: Tensor | None) -> None:
        config, rows = self.config, len(window)
        width = config.values * (2 if config.flags else 1)
        shapes: list[tuple[str, Tensor | None, list[int], bool]] = [
            ("window", window, [rows, config.window, width], True),
            ("known", known, [rows, config.window + config.horizon, config.known], config.known > 0),
            ("static", static, [rows, config.static], config.static > 0),
            ("channel", channel, [rows], config.channels > 0),
        ]
        for name, value, shape, needed in shapes:
            if needed and (value is None or list(value.shape) != shape):
                raise InputError(f"`{name}` must be {shape}, got {None if value is None else list(value.shape)}")

    def _freed(self, values: Tensor) -> Window:
        if self.config.normalise == "last":
            return Window(values[:, -1:], torch.ones_like(values[:, -1:]))
        if self.config.normalise == "window":
            scale = (values.var(dim=1, keepdim=True, unbiased=False) + 1e-5).sqrt()
            return Window(values.mean(dim=1, keepdim=True), scale)
        return Window(torch.zeros_like(values[:, -1:]), torch.ones_like(values[:, -1:]))

    def _back(self, made: Tensor, freed: Window) -> Tensor:
        """Give back what the windows were freed of: made [B, H, C, P]."""
        shift, scale = (part[..., : self.config.targets, None] for part in freed)
        if not self.config.distribution:
            return made * scale + shift
        return torch.cat([made[..., :1] * scale + shift, made[..., 1:] * scale], dim=-1)

    def _own(self, static: Tensor | None, channel: Tensor | None, rows: int, like: Tensor) -> Tensor:
        """Return what is the same at all steps of a row, [B, S + width of a channel's vector]."""
        parts = [like.new_zeros(rows, 0)]
        if self.config.static and static is not None:
            parts.append(static)
        if self.channel is not None:
            parts.append(self.channel(channel))
        return torch.cat(parts, dim=1)

    def _segments(self, inputs: Tensor, known: Tensor | None, static: Tensor | None, channel: Tensor | None) -> Tensor:
        config, rows = self.config, len(inputs)
        w, steps, count = config.segment, config.window, len(self.place)
        if config.known and known is not None:
            inputs = torch.cat([inputs, known[:, :steps]], dim=-1)
        read = F.relu(self.project(inputs.reshape(rows, steps // w, -1)))
        state = self.recurrent(read.transpose(0, 1))[1]
        asked = self.place.expand(rows, -1, -1)
        if self.channel is not None:
            asked = torch.cat([asked, self.channel(channel)[:, None].expand(-1, count, -1)], dim=-1)
        if self.given is not None:
            parts = []
            if config.known and known is not None:
                ahead = F.pad(known[:, steps:], (0, 0, 0, count * w - config.horizon))
                parts.append(ahead.reshape(rows, count, -1))
            if config.static and static is not None:
                parts.append(static[:, None].expand(-1, count, -1))
            asked = asked + self.given(torch.cat(parts, dim=-1))
        states = pytree.tree_map(lambda value: value.repeat_interleave(count, dim=1), state)
        output = self.recurrent(asked.reshape(1, rows * count, -1), states)[0]
        made = self.readout(self.dropout(output[0])).view(rows, count * w, config.targets, config.numbers)
        return self._numbers(made[:, : config.horizon])

    def _direct(self, inputs: Tensor, known: Tensor | None, own: Tensor) -> Tensor:
        config, rows = self.config, len(inputs)
        parts = [inputs, own[:, None].expand(-1, config.window, -1)]
        if known is not None and config.known:
            parts.append(known[:, : config.window])
        last = self.dropout(self.recurrent(torch.cat(parts, dim=-1).transpose(0, 1))[0][-1])
        made: Tensor = self.readout(last).view(rows, config.horizon, -1)
        if self.given is not None and known is not None:
            ahead = torch.cat([known[:, config.window :], last[:, None].expand(-1, config.horizon, -1)], dim=-1)
            made = made + self.ahead(F.relu(self.given(ahead)))
        return self._numbers(made.view(rows, config.horizon, config.targets, config.numbers))

    def _recursive(
        self,
        inputs: Tensor,
        known: Tensor | None,
        own: Tensor,
        given: Tensor | None,
        freed: Window,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return [B, H, C, P], or with a generator the values drawn, [B, H, C, 1]."""
        config, rows, steps = self.config, len(inputs), self.config.window

        def step(values: Tensor, first: int) -> Tensor:
            count = values.shape[1]
            parts = [values, own[:, None].expand(-1, count, -1)]
            if known is not None and config.known:
                # what is known of the step that is foretold
                parts.append(known[:, first + 1 : first + 1 + count])
            return torch.cat(parts, dim=-1).transpose(0, 1)

        def read(output: Tensor) -> Tensor:
            made = self.readout(self.dropout(output)).transpose(0, 1)
            return self._numbers(made.reshape(rows, -1, config.targets, config.numbers))

        if given is not None:
            follow = (given - freed.shift) / freed.scale
            follow = F.pad(follow[:, :-1], (0, config.values if config.flags else 0))
            output, _ = self.recurrent(step(torch.cat([inputs, follow], dim=1), 0))
            return read(output[steps - 1 :])
        output, state = self.recurrent(step(inputs, 0))
        made = [self._draw(read(output[-1:]), generator)]
        for number in range(1, config.horizon):
            values = F.pad(made[-1][..., 0], (0, config.values if config.flags else 0))
            output, state = self.recurrent(step(values, steps + number - 1), state)
            made.append(self._draw(read(output), generator))
        return torch.cat(made, dim=1)

    def _draw(self, made: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is None:
            return made
        noise = torch.randn(made.shape[:-1], generator=generator, dtype=made.dtype)
        if self.tail is not None:
            # Student's t: a normal number by the root of a mean of squares
            freedom = float(self.freedom)
            shape = torch.full(made.shape[:-1], freedom / 2, dtype=made.dtype)
            noise = noise / (torch._standard_gamma(shape, generator=generator) / (freedom / 2)).sqrt()
        return (made[..., 0] + made[..., 1] * noise)[..., None]

    def _numbers(self, made: Tensor) -> Tensor:
        if not self.config.distribution:
            return made
        return torch.cat([made[..., :1], F.softplus(made[..., 1:]) + LEAST_SCALE], dim=-1)

    @property
    def freedom(self) -> Tensor:
        """Degrees of freedom of Student's t, above 2."""
        assert self.tail is not None
        return 2 + F.softplus(self.tail)

    def loss(self, made: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of the values that are there.

        Args:
            made: [B, H, C, P].
            target: [B, H, C], NaN where missing.
        """
        there = ~target.isnan()
        made, target = made[there], target[there]
        if self.config.distribution:
            likely: Tensor = self._distribution(made).log_prob(target)
            return -likely.mean()
        if self.config.quantiles:
            levels = made.new_tensor(self.config.quantiles)
            over = target[:, None] - made
            return 2 * torch.maximum(levels * over, (levels - 1) * over).mean()
        losses = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.smooth_l1_loss}
        return losses[self.config.loss](made[:, 0], target)

    def point(self, made: Tensor) -> Tensor:
        """Return the forecast as single values, [B, H, C], of quantiles the median."""
        quantiles = self.config.quantiles
        return made[..., quantiles.index(0.5) if quantiles and not self.config.distribution else 0]

    def quantiles(self, made: Tensor, levels: tuple[float, ...]) -> Tensor:
        """Return quantiles that rise, [B, H, C, Q]; those of a network that foretells quantiles are its own."""
        if not self.config.distribution:
            return made.sort(dim=-1).values
        return made[..., :1] + made[..., 1:] * made.new_tensor(self.standard(levels))

    def standard(self, levels: tuple[float, ...]) -> list[float]:
        """Return the quantiles of the distribution with mean 0 and scale 1."""
        if self.tail is None:
            return [NormalDist().inv_cdf(level) for level in levels]
        return student_quantiles(float(self.freedom), levels)

    def _distribution(self, made: Tensor) -> Any:
        if self.tail is None:
            return torch.distributions.Normal(made[..., 0], made[..., 1])
        return torch.distributions.StudentT(self.freedom, made[..., 0], made[..., 1])


def student_quantiles(freedom: float, levels: tuple[float, ...]) -> list[float]:
    """Return quantiles of Student's t distribution.

    With t = sqrt(n) tan u the density of u is proportional to cos(u)^(n - 1), whose integral is taken numerically.

    >>> [round(value, 3) for value in student_quantiles(5.0, (0.5, 0.975))]
    [0.0, 2.571]
    """
    u = np.linspace(-math.pi / 2, math.pi / 2, 40_001)
    density = np.cos(u).clip(0) ** (freedom - 1)
    below = np.append(0.0, np.cumsum((density[1:] + density[:-1]) / 2))
    places = np.interp(levels, below / below[-1], u)
    return [float(value) for value in math.sqrt(freedom) * np.tan(places)]
