"""recur: recurrent networks on PyTorch, a recurrence written once, as its equation."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recur.cells import (
        CELLS,
        Cell,
        State,
        clip_gradient,
        exp,
        log,
        maximum,
        mean,
        minimum,
        normalize,
        relu,
        sigmoid,
        tanh,
        where,
    )
    from recur.errors import InputError, MissingExtra, RecurError, RunError
    from recur.flow.flow import GradientFlow
    from recur.flow.measure import gradient_flow, watch_gradients
    from recur.gradients.bias import truncation_bias
    from recur.gradients.initialisation import chrono_, forget_bias_, identity_, orthogonal_
    from recur.gradients.segments import segmented
    from recur.gradients.truncated import TruncatedBPTT
    from recur.layers import (
        GRU,
        LSTM,
        RNN,
        AllOutputs,
        GRUCell,
        LastOutput,
        LSTMCell,
        OutputMap,
        Recurrent,
        RNNCell,
        backend_info,
        checkpoint_plan,
    )
    from recur.layers.attention import Attention
    from recur.layers.convert import convert, from_keras, to_keras
    from recur.layers.crf import CRF
    from recur.layers.replace import replace
    from recur.layers.ttt import TTTLinear
    from recur.models.loss import sequence_loss
    from recur.models.one_to_many import OneToMany, OneToManyConfig
    from recur.models.seq2seq import EncoderDecoder, EncoderDecoderConfig
    from recur.stream import Stream
    from recur.tasks.predictor import load
    from recur.tasks.probe.task import probe

__version__ = "0.1.0"

_HOMES = {
    "recur.cells": (
        *("CELLS", "Cell", "State", "clip_gradient", "exp", "log", "maximum", "mean", "minimum", "normalize", "relu"),
        *("sigmoid", "tanh", "where"),
    ),
    "recur.errors": ("InputError", "MissingExtra", "RecurError", "RunError"),
    "recur.flow.flow": ("GradientFlow",),
    "recur.flow.measure": ("gradient_flow", "watch_gradients"),
    "recur.gradients.bias": ("truncation_bias",),
    "recur.gradients.initialisation": ("chrono_", "forget_bias_", "identity_", "orthogonal_"),
    "recur.gradients.segments": ("segmented",),
    "recur.gradients.truncated": ("TruncatedBPTT",),
    "recur.layers": (
        *("GRU", "LSTM", "RNN", "AllOutputs", "GRUCell", "LSTMCell", "LastOutput", "OutputMap", "RNNCell"),
        *("Recurrent", "backend_info", "checkpoint_plan", "convert", "from_keras", "replace", "to_keras"),
    ),
    "recur.layers.attention": ("Attention",),
    "recur.layers.crf": ("CRF",),
    "recur.layers.ttt": ("TTTLinear",),
    "recur.models.loss": ("sequence_loss",),
    "recur.models.one_to_many": ("OneToMany", "OneToManyConfig"),
    "recur.models.seq2seq": ("EncoderDecoder", "EncoderDecoderConfig"),
    "recur.tasks.predictor": ("load",),
    "recur.stream": ("Stream",),
    "recur.tasks.probe.task": ("probe",),
}

__all__ = [
    "CELLS",
    "CRF",
    "GRU",
    "LSTM",
    "RNN",
    "AllOutputs",
    "Attention",
    "Cell",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "GRUCell",
    "GradientFlow",
    "InputError",
    "LSTMCell",
    "LastOutput",
    "MissingExtra",
    "OneToMany",
    "OneToManyConfig",
    "OutputMap",
    "RNNCell",
    "RecurError",
    "Recurrent",
    "RunError",
    "State",
    "Stream",
    "TTTLinear",
    "TruncatedBPTT",
    "backend_info",
    "checkpoint_plan",
    "chrono_",
    "clip_gradient",
    "convert",
    "exp",
    "forget_bias_",
    "from_keras",
    "gradient_flow",
    "identity_",
    "load",
    "log",
    "maximum",
    "mean",
    "minimum",
    "normalize",
    "orthogonal_",
    "probe",
    "relu",
    "replace",
    "segmented",
    "sequence_loss",
    "sigmoid",
    "tanh",
    "to_keras",
    "truncation_bias",
    "watch_gradients",
    "where",
]


def __getattr__(name: str) -> Any:
    # torch takes a second to import, and `recur --help` has no use for it
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(home), name)
            return value
    raise AttributeError(f"module 'recur' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
