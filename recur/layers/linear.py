"""`Linear`: torch.nn's, on the faster of the two matrix libraries that torch has on a CPU."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recur.compiler.target import NotCompilable, host
from recur.scan import readable

# so many multiplications take longer than what there is to do around them
LARGE = 1 << 22


class Linear(nn.Linear):
    """A linear map, in place of `torch.nn.Linear`: the same parameters and results, up to rounding.

    torch multiplies float32 with MKL, which on processors of AMD takes twice as long as oneDNN, which torch has too.
    There a large product runs on oneDNN; everywhere else this is torch.nn's. It matters where a vocabulary is scored:
    that is most of the work of a model that writes.

    Args:
        in_features, out_features, bias, device, dtype: as in torch.nn.Linear.

    >>> Linear(4, 8)(torch.randn(3, 4)).shape
    torch.Size([3, 8])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return `[*, out]` for `[*, in]`."""
        if not (readable(input) and _slow_blas() and self._fits(input)):
            return F.linear(input, self.weight, self.bias)
        rows = input.reshape(-1, self.in_features)
        result: Tensor = _Product.apply(rows, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return result.view(*input.shape[:-1], self.out_features)

    def _fits(self, input: Tensor) -> bool:
        weight = self.weight
        return (
            input.numel() * self.out_features >= LARGE
            and input.dtype == weight.dtype == torch.float32
            and input.is_cpu
            and weight.is_cpu
            and input.shape[-1] == self.in_features
            and type(weight) in (Tensor, nn.Parameter)
            and not torch.is_autocast_enabled("cpu")
            and torch.autograd.forward_ad._current_level < 0
        )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x [N, D] times weight [V, D] transposed, plus bias [V], without gradient, on the faster library.

    Any of them may be a transposed view.
    """
    if _slow_blas() and x.dtype == weight.dtype == torch.float32 and x.is_cpu:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return result
    return F.linear(x, weight, bias)


@lru_cache(maxsize=1)
def _slow_blas() -> bool:
    """Whether torch's matrix products are MKL's on a processor of AMD, and oneDNN is there."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    try:
        # what torch.compile turns a linear map into
        return host().cpu.startswith(("znver", "bdver", "btver")) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    except NotCompilable:
        return False


class _Product(torch.autograd.Function):
    """`product` with its gradient; where that is to be differentiated again, it is made of torch's own products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        d_bias = d.sum(0) if need_bias else None
        if torch.is_grad_enabled() or not readable(d) or torch._C._functorch.is_legacy_batchedtensor(d):
            return d @ weight if need_x else None, d.t() @ x if need_weight else None, d_bias
        d_x = product(d, weight.t()) if need_x else None
        return d_x, product(d.t(), x.t()) if need_weight else None, d_bias
