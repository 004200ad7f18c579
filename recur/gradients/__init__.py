"""How gradients flow, and how they are kept in bounds."""

from recur.gradients.bias import Truncation, TruncationBias, truncation_bias
from recur.gradients.clipping import clip_by_global_norm, clip_by_norm, clip_by_value, nonfinite_gradients
from recur.gradients.initialisation import chrono_, forget_bias_, identity_, orthogonal_
from recur.gradients.segments import Segmented, segmented
from recur.gradients.truncated import TruncatedBPTT, Update

__all__ = [
    "Segmented",
    "TruncatedBPTT",
    "Truncation",
    "TruncationBias",
    "Update",
    "chrono_",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "forget_bias_",
    "identity_",
    "nonfinite_gradients",
    "orthogonal_",
    "segmented",
    "truncation_bias",
]
