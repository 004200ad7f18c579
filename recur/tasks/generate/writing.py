"""Text from a language model, token by token."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from recur.data.coders import LINE, Coder
from recur.errors import InputError
from recur.models.decoding import draw
from recur.models.language import LanguageModel


def prefix_ids(coder: Coder, prefix: str, *, unknown: bool) -> NDArray[np.int64]:
    """Return the ids of what a text begins with; of an empty one those of a line's end.

    Args:
        coder: from text to ids.
        prefix: the text.
        unknown: whether the network has learned what an unknown token is.

    Raises:
        InputError: the text has tokens that the network never read.
    """
    ids = coder.encode(prefix or LINE)
    if not len(ids) or (not prefix and ids[0] == 1):
        # blanks are no words, and a text may have no line's end
        return np.array([2])
    if (ids == 1).any() and not unknown:
        read = coder.encode("".join(sorted(set(prefix)))) if coder.unit == "characters" else ids
        missing = "".join(c for c, id in zip(sorted(set(prefix)), read, strict=False) if id == 1)
        found = f"has the characters {missing!r}, which" if coder.unit == "characters" else "has words that"
        raise InputError(f"the prefix {found} the training text does not have; leave them out")
    return ids


class Writer:
    """Continues one text; its tokens come as they are drawn, and the text so far is never read again.

    Args:
        model: the language model, in evaluation.
        coder: its tokens.
        prefix: ids of what the text begins with, at least one.
        temperature: 0 takes the likeliest token; below 1 the likely ones gain, above 1 the others.
        top_k, top_p: see `recur.models.decoding.draw`.
        seed: of the draws.

    Raises:
        InputError: an argument out of its range.
    """

    def __init__(
        self,
        model: LanguageModel,
        coder: Coder,
        prefix: NDArray[np.int64],
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 1,
    ) -> None:
        self._stream, self._add = model.stream(), coder.writer()
        self._how = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        self._generator = torch.Generator().manual_seed(seed)
        # nothing, the unknown, and the marks of subwords that running text does not have
        self._banned = [0, 1, 2, 3] if coder.unit == "bpe" else [0, 1]
        for id in prefix.tolist():
            self._scores = self._stream.step(torch.tensor([id]))
            self._add(id)
        self._choose(self._scores.clone())  # an argument that is wrong is known before anything is written
        self._generator.manual_seed(seed)

    def write(self, length: int) -> Iterator[str]:
        """Yield so many tokens more, as text."""
        for _ in range(length):
            chosen = self._choose(self._scores)
            self._scores = self._stream.step(chosen)
            yield self._add(int(chosen))

    def _choose(self, scores: torch.Tensor) -> torch.Tensor:
        scores[:, self._banned] = -torch.inf
        if self._how["temperature"] == 0:
            return scores.argmax(-1)
        return draw(scores, generator=self._generator, **self._how)  # type: ignore[arg-type]
