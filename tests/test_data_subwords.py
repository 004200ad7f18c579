import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recur import InputError
from recur.data import Subwords
from recur.errors import MissingExtra

TEXTS = ["der Hund schläft im Haus", "ein Hund bellt vor dem Haus", "the dog sleeps in the house"] * 3
COLLAPSED = Subwords.build(TEXTS, 400)
KEPT = Subwords.build(TEXTS, 400, blanks="keep")


def normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace("▁", " ")


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_kept_blanks_come_back_to_the_character(text: str):
    assert KEPT.decode(KEPT.encode(text)) == normal(text)


@given(st.lists(st.text("abHäundst.,😀漢\n"), max_size=5))
@settings(max_examples=100, deadline=None)
def test_collapsed_blanks_are_one(words: list[str]):
    text = "  ".join(words)
    assert COLLAPSED.decode(COLLAPSED.encode(text)) == " ".join(word for word in words if word)


def test_frequent_words_are_one_piece_and_strange_ones_bytes():
    assert COLLAPSED.pieces("der Hund") == ["▁der", "▁Hund"]
    assert COLLAPSED.pieces("漢") == ["▁", "<0xE6>", "<0xBC>", "<0xA2>"]
    assert 1 not in COLLAPSED.encode("漢 \x00 😀 zyx")
    assert COLLAPSED.tokens[:4] == ["<pad>", "<unk>", "<s>", "</s>"]


def test_special_ids_are_not_written():
    assert COLLAPSED.decode([2, *COLLAPSED.encode("der Hund").tolist(), 3, 0]) == "der Hund"
    assert COLLAPSED.pieces("<s>") != ["<s>"]


def test_the_same_texts_give_the_same_model():
    assert Subwords.build(iter(TEXTS), 400) == COLLAPSED
    assert Subwords.build(TEXTS, 400, lower=True) != COLLAPSED


def test_small_letters():
    subwords = Subwords.build(TEXTS, 400, lower=True)
    assert subwords.decode(subwords.encode("Der HUND")) == "der hund"


def test_many_characters_leave_room_for_pieces():
    han = "".join(chr(0x4E00 + i) for i in range(3000))
    subwords = Subwords.build([han, *TEXTS], 400)
    assert len(subwords) <= 400
    assert subwords.decode(subwords.encode(han)) == han
    assert subwords.pieces("der Hund") == ["▁der", "▁Hund"]


def test_only_so_many_characters_are_read():
    def endless():
        while True:
            yield from TEXTS

    assert len(Subwords.build(endless(), 400, characters=500)) > 260


def test_saved_and_read_again():
    again = Subwords.from_state(KEPT.state())
    assert again == KEPT
    assert again.encode("der Hund").tolist() == KEPT.encode("der Hund").tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Subwords.build(TEXTS, 100), "number of subwords must be at least 320, got 100"),
        (lambda: Subwords.build(["", "  "]), "expected texts to learn subwords from"),
        (lambda: Subwords.build(TEXTS, 400, blanks="some"), "must be 'collapse' or 'keep', got 'some'"),
        (lambda: Subwords(b"nonsense"), "no sentencepiece model"),
        (lambda: Subwords.from_state({"model": "%%", "lower": False}), "damaged"),
        (lambda: Subwords.from_state({"lower": False}), "damaged"),
        (lambda: COLLAPSED.decode([400000]), "ids must be in 0..3"),
    ],
)
def test_what_is_refused(make, message: str):
    with pytest.raises(InputError, match=message):
        make()


def test_without_sentencepiece(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingExtra, match=r"recur\[text\]"):
        Subwords.build(TEXTS, 400)
