"""Writing with a model, token by token: the likeliest next one, a drawn one, or a beam of the likeliest rows.

A model carries its state from step to step and never reads a token twice.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from recur.errors import InputError

S = TypeVar("S")

# a row's tokens that are of no use in what is written: padding and <s>
BANNED = (0, 2)


class StepModel(Protocol[S]):
    """What writing asks of a model; states are of any type. The logits are the caller's, who may change them."""

    def step(self, tokens: Tensor, state: S) -> tuple[Tensor, S]:
        """Read one token of each of N rows, int64 [N]; return the logits of the next [N, V] and the state after."""

    def select(self, state: S, rows: Tensor) -> S:
        """Return the state of some rows, int64 [M], in that order; a row may be named several times."""


class Hypothesis(NamedTuple):
    """What was written for one row."""

    tokens: list[int]
    """Without the first token and the end."""
    log_probability: float
    """Of the tokens, and of the end where it was reached, in nats."""
    score: float
    """What rows were compared by: the log-probability, in a beam over the length penalty."""
    finished: bool
    """Whether the end was reached before `max_length`."""


def greedy(
    model: StepModel[S],
    state: S,
    first: Tensor,
    *,
    max_length: int | Tensor,
    min_length: int = 0,
    end: int | None = 3,
    banned: Sequence[int] = BANNED,
) -> list[Hypothesis]:
    """Write the likeliest token at every step.

    Args:
        model: what scores the next token.
        state: of N rows, before `first` is read.
        first: the token that each row begins with, int64 [N].
        max_length: most tokens to write, the end counted; one number, or one for each row, [N].
        min_length: tokens before which no end is written.
        end: the token that ends a row, </s>; None where there is none.
        banned: tokens that are never written.

    Returns:
        what was written for each row.

    Raises:
        InputError: an argument out of its range.
    """
    return _write(model, state, first, lambda scores: scores.argmax(-1), max_length, min_length, end, banned)


def sample(
    model: StepModel[S],
    state: S,
    first: Tensor,
    *,
    max_length: int | Tensor,
    min_length: int = 0,
    end: int | None = 3,
    banned: Sequence[int] = BANNED,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> list[Hypothesis]:
    """Draw every token, see `draw`; other arguments, result and errors are those of `greedy`.

    The log-probabilities are those of the model, whatever temperature and cuts the tokens were drawn with.
    """
    _check_draw(temperature, top_k, top_p)

    def choose(scores: Tensor) -> Tensor:
        return draw(scores, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)

    return _write(model, state, first, choose, max_length, min_length, end, banned)


def draw(
    scores: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw a token of each row.

    Args:
        scores: logits or log-probabilities, [N, V]; -inf for what must not be drawn.
        temperature: they are divided by it: below 1 the likely ones gain, above 1 the others.
        top_k: draw from the k likeliest only (Fan et al. 2018, arXiv:1805.04833, section 5.1).
        top_p: of what is left, draw from the fewest that together have at least this probability, the likeliest first
            (Holtzman et al. 2019, arXiv:1904.09751, section 3.1).
        generator: where the randomness comes from; torch's own if None.

    Returns:
        ids, int64 [N].

    Raises:
        InputError: an argument out of its range.

    >>> draw(torch.tensor([[0.1, 3.0, 2.0]]), top_k=1)
    tensor([1])
    """
    _check_draw(temperature, top_k, top_p)
    # as long as a token can be drawn, what is divided by is no matter of overflow
    scores = (scores - scores.amax(-1, keepdim=True)) / temperature
    if top_k is None and top_p is None:
        return torch.multinomial(scores.softmax(-1), 1, generator=generator).squeeze(-1)
    ordered, ids = scores.topk(min(top_k or scores.shape[-1], scores.shape[-1]), -1)
    probabilities = ordered.softmax(-1)
    if top_p is not None:
        before = probabilities.cumsum(-1) - probabilities
        # what the likeliest one misses by rounding must not take it away
        outside = before >= top_p
        outside[:, 0] = False
        probabilities = probabilities.masked_fill(outside, 0.0)
    place = torch.multinomial(probabilities, 1, generator=generator)
    chosen: Tensor = ids.gather(-1, place).squeeze(-1)
    return chosen


def length_penalty(length: int | Tensor, alpha: float) -> float | Tensor:
    """Return ((5 + length) / 6) ** alpha, by which a beam divides log-probabilities; 1 for alpha 0.

    Source: Wu et al. 2016, arXiv:1609.08144, eq. 14.
    """
    penalty: float | Tensor = ((5 + length) / 6) ** alpha
    return penalty


def beam_search(
    model: StepModel[S],
    state: S,
    first: Tensor,
    *,
    beam: int,
    max_length: int | Tensor,
    min_length: int = 0,
    end: int = 3,
    banned: Sequence[int] = BANNED,
    alpha: float = 0.0,
    best: int = 1,
) -> list[list[Hypothesis]]:
    """Follow the `beam` likeliest unfinished rows of each source until no better finished one can come of them.

    A row counts with its log-probability over `length_penalty` of its tokens, the end counted. A source is done when as
    many rows as the beam is wide are finished and no unfinished one can come to be among the best `best` of them.

    Args:
        model: what scores the next token.
        state: of N sources, before `first` is read.
        first: the token that each begins with, int64 [N].
        beam: how many rows are followed, at least 1; 1 with `alpha` 0 is `greedy`.
        max_length: most tokens to write, the end counted; one number, or one for each source, [N].
        min_length: tokens before which no end is written.
        end: the token that ends a row, </s>.
        banned: tokens that are never written.
        alpha: from 0 up; the larger, the longer the rows.
        best: how many rows to return of each source, at most `beam`.

    Returns:
        the best rows of each source, finished ones first, best first; fewer than `best` only where fewer exist.

    Raises:
        InputError: an argument out of its range.
    """
    if beam < 1 or not 1 <= best <= beam:
        raise InputError(f"`beam` must be at least 1 and `best` from 1 to `beam`, got {beam} and {best}")
    if not alpha >= 0:
        raise InputError(f"`alpha` must be at least 0, got {alpha!r}")
    limits = _check(first, max_length, min_length)
    with torch.no_grad():
        return _Beams(model, state, first, beam, best, alpha, limits, min_length, end, banned).search()


class _Beams:
    """The rows of a beam search: `beam` of each source that is not done, one source after the other."""

    def __init__(
        self,
        model: StepModel[S],
        state: S,
        first: Tensor,
        beam: int,
        best: int,
        alpha: float,
        limits: Tensor,
        min_length: int,
        end: int,
        banned: Sequence[int],
    ) -> None:
        self.model, self.beam, self.best, self.alpha, self.end = model, beam, best, alpha, end
        self.limits, self.min_length, self.banned = limits.tolist(), min_length, list(banned)
        self.found: list[list[Hypothesis]] = [[] for _ in self.limits]
        # the numbers of the sources that are not done
        self.sources = list(range(len(self.limits)))
        self.state, self.tokens = state, first
        self.device = first.device

    def search(self) -> list[list[Hypothesis]]:
        """Run to the end."""
        width, length = 1, 0
        total = torch.zeros(len(self.sources), 1, device=self.device)
        written = torch.zeros(len(self.sources), 0, dtype=torch.int64, device=self.device)
        while self.sources:
            length += 1
            logits, self.state = self.model.step(self.tokens, self.state)
            norms = logits.logsumexp(-1)
            _ban(logits, self.banned, self.end if length <= self.min_length else None)
            # so many that a beam of them is left when the ended ones are taken out
            values, ids = logits.topk(min(2 * self.beam, logits.shape[1]), -1)
            each = (values + (total.reshape(-1) - norms)[:, None]).view(len(self.sources), -1)
            most = min(2 * self.beam, each.shape[1])
            values, places = each.topk(most, -1)
            begun = torch.arange(len(self.sources), device=self.device)[:, None] * width
            rows, ids = begun + places // ids.shape[1], ids.view(len(each), -1).gather(1, places)
            ended = ids == self.end
            self._collect(values, rows, ended, written, length)
            # those that go on, likeliest first; what cannot be is -inf and stays
            values = values.masked_fill(ended, -torch.inf)
            total, kept = values.topk(min(self.beam, most), -1)
            rows, ids = rows.gather(1, kept), ids.gather(1, kept)
            going = [n for n, likely in enumerate(total[:, 0].tolist()) if not self._done(n, likely, length)]
            for n in set(range(len(self.sources))) - set(going):
                if len(self.found[self.sources[n]]) < self.best:
                    self._stop(n, total[n], rows[n], ids[n], written, length)
            self.sources = [self.sources[n] for n in going]
            index = torch.tensor(going, dtype=torch.int64, device=self.device)
            total, rows, ids = total[index], rows[index].reshape(-1), ids[index].reshape(-1)
            width = total.shape[1]
            self.state = self.model.select(self.state, rows) if going else self.state
            self.tokens, written = ids, torch.cat([written[rows], ids[:, None]], 1)
        return [sorted(found, key=lambda one: (-one.finished, -one.score))[: self.best] for found in self.found]

    def _collect(self, values: Tensor, rows: Tensor, ended: Tensor, written: Tensor, length: int) -> None:
        """Take in the rows that end with this step, of those among the `beam` likeliest of their source."""
        for n, place in (ended & values.isfinite())[:, : self.beam].nonzero().tolist():
            self._add(n, written[rows[n, place]].tolist(), float(values[n, place]), length, finished=True)

    def _stop(self, n: int, total: Tensor, rows: Tensor, ids: Tensor, written: Tensor, length: int) -> None:
        """Take in the rows of a source that has no more steps, as they stand."""
        for value, row, token in zip(total.tolist(), rows.tolist(), ids.tolist(), strict=True):
            if value > -torch.inf:
                self._add(n, [*written[row].tolist(), token], value, length, finished=False)

    def _add(self, n: int, tokens: list[int], value: float, length: int, *, finished: bool) -> None:
        score = value / float(length_penalty(length, self.alpha))
        self.found[self.sources[n]].append(Hypothesis(tokens, value, score, finished))

    def _done(self, n: int, likely: float, length: int) -> bool:
        """Whether nothing better can come of a source's unfinished rows, the likeliest of which is given."""
        source = self.sources[n]
        limit = self.limits[source]
        if length >= limit or likely == -torch.inf:
            return True
        found = self.found[source]
        if len(found) < self.beam:
            return False
        # a log-probability only falls, and the longest row is divided by most
        return sorted(one.score for one in found)[-self.best] >= likely / float(length_penalty(limit, self.alpha))


def _write(
    model: StepModel[S],
    state: S,
    first: Tensor,
    choose: Callable[[Tensor], Tensor],
    max_length: int | Tensor,
    min_length: int,
    end: int | None,
    banned: Sequence[int],
) -> list[Hypothesis]:
    limits = _check(first, max_length, min_length)
    rows = len(first)
    written: list[list[int]] = [[] for _ in range(rows)]
    totals, finished = [0.0] * rows, [False] * rows
    most = limits.tolist()
    # the number of the row that stands at each place, or None where it has ended
    places: list[int | None] = list(range(rows))
    tokens, length = first, 0
    with torch.no_grad():
        while any(row is not None for row in places):
            length += 1
            logits, state = model.step(tokens, state)
            norms = logits.logsumexp(-1)
            _ban(logits, banned, end if length <= min_length else None)
            tokens = choose(logits)
            values = logits.gather(1, tokens[:, None]).squeeze(1) - norms
            for place, (token, value) in enumerate(zip(tokens.tolist(), values.tolist(), strict=True)):
                row = places[place]
                if row is None:
                    continue
                totals[row] += value
                finished[row] = token == end
                if not finished[row]:
                    written[row].append(token)
                if finished[row] or length >= most[row]:
                    places[place] = None
            going = [place for place, row in enumerate(places) if row is not None]
            # to copy the states of those that go on costs about as much as a few rows more
            if going and len(going) < 0.8 * len(places):
                index = torch.tensor(going, dtype=torch.int64, device=tokens.device)
                state, tokens, places = model.select(state, index), tokens[index], [places[place] for place in going]
    return [Hypothesis(*each) for each in zip(written, totals, totals, finished, strict=True)]


def _ban(logits: Tensor, banned: Sequence[int], end: int | None) -> None:
    """Set the scores of what must not be written, the end too where it is given, to -inf."""
    for token in (*banned, *(() if end is None else (end,))):
        logits[:, token] = -torch.inf


def _check(first: Tensor, max_length: int | Tensor, min_length: int) -> Tensor:
    """Return the most tokens of each row, int64 [N]."""
    if first.dim() != 1 or first.is_floating_point():
        raise InputError(f"`first` must be ids [N], got {list(first.shape)}, {first.dtype}")
    limits = torch.as_tensor(max_length)
    if limits.is_floating_point() or limits.shape not in ((), (len(first),)) or (limits < 1).any():
        raise InputError(f"`max_length` must be whole numbers above 0, one or [N] = [{len(first)}], got {max_length!r}")
    if not 0 <= min_length <= int(limits.min() if limits.numel() else 0):
        raise InputError(f"`min_length` must be from 0 to `max_length`, got {min_length}")
    return limits.expand(len(first))


def _check_draw(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0 < temperature < float("inf"):
        raise InputError(f"`temperature` must be above 0, got {temperature!r}; greedy takes the likeliest")
    if top_k is not None and top_k < 1:
        raise InputError(f"`top_k` must be at least 1, got {top_k!r}")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"`top_p` must be above 0, at most 1, got {top_p!r}")
