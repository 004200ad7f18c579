"""A dictionary learned from pairs of texts, and translation word by word with it, without order or context."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

# of Chinese and Japanese each character
_HAN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_HAN}]|[^\W{_HAN}]+|[^\w\s]")
ROUNDS = 5


class Dictionary:
    """The most probable translation of each word by IBM model 1 (Brown et al. 1993, section 4.4).

    A translation puts these words one after the other; words that the pairs lack stay as they are.

    Args:
        pairs: source and target texts, at least one.
        lower: turn capital letters into small ones first.
        most_links: so many pairs of a source and a target word are held in memory; further texts are not read.

    >>> pairs = [("das Haus", "the house"), ("das Buch", "the book"), ("ein Buch", "a book")]
    >>> Dictionary(pairs)("ein Haus")
    'a house'
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], lower: bool = False, most_links: int = 10_000_000) -> None:
        self.lower = lower
        sources, targets, links, places = self._links(pairs, most_links)
        keys, number = np.unique(links, return_inverse=True)
        word, other = keys // len(targets), keys % len(targets)
        # p(target word | source word), alike at first
        chance = np.ones(len(keys))
        for _ in range(ROUNDS):
            weights = chance[number]
            shares = weights / np.bincount(places, weights)[places]
            counts = np.bincount(number, shares, minlength=len(keys))
            chance = counts / np.bincount(word, counts)[word]
        order = np.lexsort((other, -chance, word))
        first = order[np.unique(word[order], return_index=True)[1]]
        words, others = list(sources), list(targets)
        # word 0 stands for none
        self.best = {words[word[i]]: others[other[i]] for i in first.tolist() if word[i]}

    def _links(
        self, pairs: Iterable[tuple[str, str]], most: int
    ) -> tuple[dict[str, int], dict[str, int], NDArray[np.int64], NDArray[np.int64]]:
        """Return both vocabularies, and of every source and target word of every pair a number, and the target's place.

        Every target word may also come from no source word, which is word 0 of every source.
        """
        sources: dict[str, int] = {"": 0}
        targets: dict[str, int] = {}
        read: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for source, target in pairs:
            left = [0, *(sources.setdefault(word, len(sources)) for word in self._words(source))]
            right = [targets.setdefault(word, len(targets)) for word in self._words(target)]
            read.append((np.array(left), np.array(right, dtype=np.int64)))
            most -= len(left) * len(right)
            if most <= 0:
                break
        links, places, seen = [], [], 0
        for left_ids, right_ids in read:
            links.append((left_ids[None] * len(targets) + right_ids[:, None]).ravel())
            places.append(np.repeat(np.arange(seen, seen + len(right_ids)), len(left_ids)))
            seen += len(right_ids)
        return sources, targets, np.concatenate(links), np.concatenate(places)

    def __call__(self, text: str) -> str:
        """Translate a text word by word."""
        return " ".join(self.best.get(word, word) for word in self._words(text))

    def all(self, texts: Sequence[str]) -> list[str]:
        """Translate many."""
        return [self(text) for text in texts]

    def _words(self, text: str) -> list[str]:
        return _WORD.findall(text.lower() if self.lower else text)
