"""How gradients flow, and how they are kept in bounds."""

from recur.gradients.clipping import clip_by_global_norm, clip_by_norm, clip_by_value, nonfinite_gradients
from recur.gradients.initialisation import chrono_, forget_bias_, identity_, orthogonal_

__all__ = [
    "chrono_",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "forget_bias_",
    "identity_",
    "nonfinite_gradients",
    "orthogonal_",
]
