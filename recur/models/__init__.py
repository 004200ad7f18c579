"""Networks that answer a question: recurrent layers between an embedding and an answer."""

from recur.models.classifier import Classifier, ClassifierConfig

__all__ = ["Classifier", "ClassifierConfig"]
