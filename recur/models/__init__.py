"""Networks that answer a question: recurrent layers between an embedding and an answer."""

from recur.models.captioner import Captioner, CaptionerConfig, FrameLabeller, FrameLabellerConfig
from recur.models.classifier import Classifier, ClassifierConfig
from recur.models.ctc import align, best_path, ctc_losses, prefix_beam_search
from recur.models.decoder import Decoder, DecoderConfig, DecoderState, forcing_rate
from recur.models.decoding import Hypothesis, StepModel, beam_search, draw, greedy, sample
from recur.models.forecaster import Forecaster, ForecasterConfig
from recur.models.language import LanguageConfig, LanguageModel
from recur.models.listener import Listener, ListenerConfig
from recur.models.loss import sequence_loss
from recur.models.memory import MemoryConfig, MemoryNetwork
from recur.models.one_to_many import OneToMany, OneToManyConfig
from recur.models.seq2seq import EncoderDecoder, EncoderDecoderConfig
from recur.models.tagger import Tagger, TaggerConfig, TaggerInput
from recur.models.transcriber import Transcriber, TranscriberConfig
from recur.models.vision import Vision

__all__ = [
    "Captioner",
    "CaptionerConfig",
    "Classifier",
    "ClassifierConfig",
    "Decoder",
    "DecoderConfig",
    "DecoderState",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "Forecaster",
    "ForecasterConfig",
    "FrameLabeller",
    "FrameLabellerConfig",
    "Hypothesis",
    "LanguageConfig",
    "LanguageModel",
    "Listener",
    "ListenerConfig",
    "MemoryConfig",
    "MemoryNetwork",
    "OneToMany",
    "OneToManyConfig",
    "StepModel",
    "Tagger",
    "TaggerConfig",
    "TaggerInput",
    "Transcriber",
    "TranscriberConfig",
    "Vision",
    "align",
    "beam_search",
    "best_path",
    "ctc_losses",
    "draw",
    "forcing_rate",
    "greedy",
    "prefix_beam_search",
    "sample",
    "sequence_loss",
]
