"""The inner loop of TTT-Linear: linear models, one for each row and head, that learn while they read.

Shapes: T steps, M models, F features, b tokens of a mini-batch. Keys and queries are rows: a model with weight W [F, F]
and bias c [F] says k W + c.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-6


class Tokens(NamedTuple):
    """What the models read; where there is no token all is zero, and nothing changes."""

    query: Tensor
    """[T, M, F]."""
    key: Tensor
    """[T, M, F]."""
    value: Tensor
    """[T, M, F]."""
    rate: Tensor
    """Step sizes, [T, M, 1]."""


class Models(NamedTuple):
    """Weights [M, F + 1, F], the last row the bias."""

    start: Tensor
    """As the first mini-batch began; its gradients are taken there."""
    now: Tensor
    """Before the first token: after the steps of the first mini-batch so far."""
    fresh: Tensor
    """What they were before all tokens, and what they fall back to."""
    keep: Tensor
    """The share of what was learned that is kept as a mini-batch begins, [M, 1, 1]."""


class Learned(NamedTuple):
    """What the models say, and what they have become."""

    told: Tensor
    """f(query) after the step of its token, [T, M, F]."""
    weights: Tensor
    """Before the first mini-batch and after each, [N + 1, M, F + 1, F]."""


def reference(tokens: Tokens, models: Models, scale: Tensor, shift: Tensor, sizes: Sequence[int]) -> Learned:
    """Take one step of gradient descent after the other, as the equations stand.

    Args:
        tokens: T of them.
        models: before the first.
        scale, shift: of the layer norm, [M, F].
        sizes: of N mini-batches, T in all; the first carries on the one that is open.
    """
    start, now, fresh, keep = models
    told, weights = [], [now]
    steps = zip(*tokens, strict=True)
    for number, size in enumerate(sizes):
        if number:
            start = now = fresh + keep * (now - fresh)
        for _ in range(size):
            query, key, value, rate = next(steps)
            said = (key[:, None] @ start[:, :-1])[:, 0] + start[:, -1]
            error = key + normalized(said) * scale + shift - value
            gradient = _through_norm(said, scale * error)
            one = torch.nn.functional.pad(key, (0, 1), value=1.0)
            now = now - rate[..., None] * one[:, :, None] * gradient[:, None]
            said = (query[:, None] @ now[:, :-1])[:, 0] + now[:, -1]
            told.append(query + normalized(said) * scale + shift)
        weights.append(now)
    return Learned(torch.stack(told), torch.stack(weights))


def dual(tokens: Tokens, models: Models, scale: Tensor, shift: Tensor, sizes: Sequence[int]) -> Learned:
    """Return what `reference` does, by matrix products over the tokens of a mini-batch.

    Source: Sun et al. 2024, arXiv:2407.04620, section 2.5.
    """
    return Learned(*_Dual.apply(tuple(sizes), *tokens, *models, scale, shift))  # type: ignore[no-untyped-call]


def normalized(values: Tensor) -> Tensor:
    """Return values with mean 0 and variance 1 over the last dimension."""
    centred = values - values.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + EPSILON).rsqrt()


def _through_norm(values: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient at `values` of what has `gradient` at `normalized(values)`."""
    spread = (values.var(-1, correction=0, keepdim=True) + EPSILON).sqrt()
    hat = normalized(values)
    return (gradient - gradient.mean(-1, keepdim=True) - hat * (gradient * hat).mean(-1, keepdim=True)) / spread


class _Dual(torch.autograd.Function):
    """The dual form with its derivative, mini-batch by mini-batch, so that what is at work stays in the cache.

    With the tokens of a mini-batch as rows, A = tril(Q K^T + 1): z = K W + c, x = norm(z), e = K + x * scale +
    shift - V, g = P(scale * e) / spread(z), P taking mean and share along x
    off, h = rate * g, y = Q W_now + c_now - A h,
    told = Q + norm(y) * scale + shift, W' = W_now - K^T h, c' = c_now - sum(h).
    """

    @staticmethod
    def forward(ctx: Any, sizes: tuple[int, ...], *given: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value, rate, start, now, fresh, keep, scale, shift = given
        weights = start.new_empty(len(sizes) + 1, *start.shape)
        weights[0] = before = now
        told = torch.empty_like(query)
        kept = [torch.empty_like(query) for _ in range(4)] + [torch.empty_like(rate) for _ in range(2)]
        by_row, shift = scale[:, None], shift[:, None]
        at = 0
        for number, size in enumerate(sizes):
            part = slice(at, at + size)
            at += size
            if number:
                start = before = torch.lerp(fresh, weights[number], keep)
            W, c, W_now, c_now = _parts(start, before)
            Q, K, V, step = (_matrices(one[part]) for one in (query, key, value, rate))
            x, e, g, y, r, r_y = (one[part].view(*Q.shape[:2], -1) for one in kept)
            torch.bmm(K, W, out=x)
            _normalize(x.add_(c), r)
            torch.addcmul(shift, x, by_row, out=e).add_(K).sub_(V)
            _project(torch.mul(e, by_row, out=g), x).mul_(r)
            h = g * step
            torch.bmm(Q, W_now, out=y)
            _normalize(y.baddbmm_(_reads(Q, K), h, alpha=-1).add_(c_now), r_y)
            told[part] = torch.addcmul(shift, y, by_row).add_(Q).transpose(0, 1)
            after = weights[number + 1]
            torch.baddbmm(W_now, K.mT, h, alpha=-1, out=after[:, :-1])
            torch.sub(c_now, h.sum(1, keepdim=True), out=after[:, -1:])
        ctx.sizes = sizes
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(query, key, rate, given[4], fresh, keep, scale, weights, *kept)
        return told, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_told: Tensor | None, d_weights: Tensor | None) -> Any:
        query, key, rate, start, fresh, keep, scale, weights, *kept = ctx.saved_tensors
        d_told = torch.zeros_like(query) if d_told is None else d_told
        d_query, d_key, d_value, d_rate = (torch.empty_like(part) for part in (query, key, key, rate))
        d_scale, d_fresh, d_keep, by_row = torch.zeros_like(scale), None, torch.zeros_like(keep), scale[:, None]
        # with respect to the weights after the mini-batch, then before it
        d_now = torch.zeros_like(start) if d_weights is None else d_weights[-1].clone()
        at = len(query)
        for number in reversed(range(len(ctx.sizes))):
            part = slice(at - ctx.sizes[number], at)
            at = part.start
            before = torch.lerp(fresh, weights[number], keep) if number else weights[0]
            W, _, W_now, _ = _parts(before if number else start, before)
            D, d_c = d_now[:, :-1], d_now[:, -1:]
            Q, K, step, told = (_matrices(one[part]) for one in (query, key, rate, d_told))
            x, e, g, y, r, r_y = (one[part].view(*Q.shape[:2], -1) for one in kept)
            h = g * step
            d_y = _project(told * by_row, y).mul_(r_y)
            reads = _reads(Q, K)
            d_reads = _causal(torch.bmm(d_y, h.mT))
            d_query[part] = torch.baddbmm(told, d_y, W_now.mT).baddbmm_(d_reads, K, alpha=-1).transpose(0, 1)
            # of -h, then of g
            d_h = torch.bmm(K, D).baddbmm_(reads.mT, d_y).add_(d_c)
            d_rate[part] = _dot(d_h, g).neg_().transpose(0, 1)
            d_g = d_h.mul_(step).neg_()
            along = _mean(d_g, x)
            d_u = torch.addcmul(d_g - d_g.mean(-1, keepdim=True), x, along, value=-1).mul_(r)
            d_e = d_u * by_row
            u = e * by_row
            d_scale += d_u.mul_(torch.addcmul(e, x, by_row)).addcmul_(told, y).sum(1)
            d_x = (d_e * by_row).addcmul_(d_g, r * _mean(u, x), value=-1).addcmul_(u, r * along, value=-1)
            more = _mean(d_x, x).add_(_mean(d_g, g))
            d_z = d_x.sub_(d_x.mean(-1, keepdim=True)).addcmul_(x, more, value=-1).mul_(r)
            d_k = torch.baddbmm(d_e, d_z, W.mT).baddbmm_(h, D.mT, alpha=-1).baddbmm_(d_reads.mT, Q, alpha=-1)
            d_key[part], d_value[part] = d_k.transpose(0, 1), d_e.neg_().transpose(0, 1)
            D.baddbmm_(Q.mT, d_y)
            d_c += d_y.sum(1, keepdim=True)
            d_start = d_now if number else torch.zeros_like(start)
            d_start[:, :-1].baddbmm_(K.mT, d_z)
            d_start[:, -1:] += d_z.sum(1, keepdim=True)
            if number:
                d_keep += (d_now * (weights[number] - fresh)).sum((1, 2), keepdim=True)
                more = d_now * (1 - keep)
                d_fresh = more if d_fresh is None else d_fresh.add_(more)
                d_now *= keep
            if d_weights is not None:
                d_now += d_weights[number]
        d_shift = d_told.sum(0) - d_value.sum(0)
        return None, d_query, d_key, d_value, d_rate, d_start, d_now, d_fresh, d_keep, d_scale, d_shift


def _parts(start: Tensor, now: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return start[:, :-1], start[:, -1:], now[:, :-1], now[:, -1:]


def _matrices(part: Tensor) -> Tensor:
    """[b, M, F] -> a matrix for each model, [M, b, F]; torch is slow to write a product elsewhere."""
    return part.transpose(0, 1).contiguous()


def _reads(query: Tensor, key: Tensor) -> Tensor:
    """Return how much each query reads of the steps of the keys up to its own, tril(Q K^T + 1), [M, b, b]."""
    return _causal(torch.bmm(query, key.mT).add_(1))


def _causal(values: Tensor) -> Tensor:
    return values.mul_(values.new_ones(values.shape[1:]).tril())


def _dot(left: Tensor, right: Tensor) -> Tensor:
    product: Tensor = torch.linalg.vecdot(left, right)
    return product.unsqueeze(-1)


def _mean(left: Tensor, right: Tensor) -> Tensor:
    """Return the mean of a product over the last dimension, [.., 1]."""
    return _dot(left, right).div_(left.shape[-1])


def _normalize(values: Tensor, inverse: Tensor) -> None:
    """Normalize `values` in place, and write 1 / their spread into `inverse` [.., 1]."""
    values.sub_(values.mean(-1, keepdim=True))
    values.mul_(torch.rsqrt(_mean(values, values).add_(EPSILON), out=inverse))


def _project(values: Tensor, hat: Tensor) -> Tensor:
    """Take mean and share along `hat` off `values`, in place."""
    along = _mean(values, hat)
    return values.sub_(values.mean(-1, keepdim=True)).addcmul_(hat, along, value=-1)
