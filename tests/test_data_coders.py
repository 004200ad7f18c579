import gzip

import numpy as np
import pytest

from recur.data import plain
from recur.data.coders import learn_coder, load_coder
from recur.data.plain import TextPart, count_characters, cut
from recur.data.stream import write_stream
from recur.errors import InputError

TEXT = "First Citizen:\nBefore we proceed, don't speak — hé!\n\nAll:\nSpeak, speak.\n"


def file(folder, text, name="text.txt", encoding="utf-8"):
    path = folder / name
    data = text.encode(encoding) if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["text.txt", "text.txt.gz"])
@pytest.mark.parametrize("size", [1, 3, 1 << 20])
def test_pieces_are_the_text_however_it_is_read(tmp_path, monkeypatch, name, size):
    monkeypatch.setattr(plain, "_BYTES", size)
    path = file(tmp_path, "\ufeff" + TEXT, name)
    assert "".join(TextPart(path)) == TEXT
    assert count_characters(path) == len(TEXT)
    assert "".join(TextPart(path, 5, 40)) == TEXT[5:40]


def test_parts_are_cut_off_the_end_one_behind_the_other(tmp_path):
    path = file(tmp_path, TEXT)
    parts = cut(path, [0.2, 0.1], whole_words=False)
    texts = ["".join(part) for part in parts]
    assert "".join(texts) == TEXT
    n = len(TEXT)
    assert [part.stop for part in parts] == [int(n * (1 - 0.2 - 0.1)), int(n * 0.9), n]
    words = ["".join(part) for part in cut(path, [0.2, 0.1], whole_words=True)]
    assert "".join(words) == TEXT
    assert all(text[-1].isspace() for text in words)
    assert [len(a) <= len(b) for a, b in zip(texts[:1], words[:1], strict=True)] == [True]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty; give a file with text"),
        (b"abc\0def", "is a binary file: there is a zero byte"),
        (b"abc\xffdef", r"is not text in UTF-8: byte 3 is 0xff"),
        ("é".encode()[:1], "ends in the middle of a character"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, data, words):
    with pytest.raises(InputError, match=words):
        count_characters(file(tmp_path, data))


def test_a_missing_file_is_named(tmp_path):
    file(tmp_path, "a", "input.txt")
    with pytest.raises(InputError, match=r"there is no file .*inputs.txt.*input\.txt"):
        count_characters(tmp_path / "inputs.txt")


def written(coder, ids):
    return "".join(map(coder.writer(), ids.tolist()))


@pytest.mark.parametrize("pieces", [[TEXT], list(TEXT), [TEXT[:30], TEXT[30:]]])
def test_characters_are_kept_as_they_are(pieces):
    coder = learn_coder("characters", iter(pieces))
    assert coder.tokens[2] == max(sorted(set(TEXT)), key=TEXT.count)
    ids = np.concatenate(list(coder.ids(pieces)))
    assert written(coder, ids) == TEXT
    assert (ids == coder.encode(TEXT)).all()
    assert coder.encode("z?").tolist() == [coder.encode("z")[0], 1]


@pytest.mark.parametrize("pieces", [[TEXT], list(TEXT)])
def test_words_between_blanks_with_line_ends(pieces):
    coder = learn_coder("spaces", iter(pieces))
    ids = np.concatenate(list(coder.ids(pieces)))
    assert [coder.tokens[i] for i in ids[:8]] == [
        "First",
        "Citizen:",
        "\n",
        "Before",
        "we",
        "proceed,",
        "don't",
        "speak",
    ]
    assert written(coder, ids) == TEXT
    assert len(ids) == len(TEXT.split()) + TEXT.count("\n")


def test_words_and_marks_are_written_as_one_would():
    coder = learn_coder("words", [TEXT], lower=True)
    assert coder.tokens[2] == "\n"
    ids = coder.encode(TEXT)
    assert [coder.tokens[i] for i in ids[:4]] == ["first", "citizen", ":", "\n"]
    assert written(coder, ids) == TEXT.lower().replace("—", "--")


def test_the_vocabulary_keeps_what_is_frequent():
    coder = learn_coder("spaces", ["a a a b b c <unk>"], size=2)
    assert coder.tokens == ["<pad>", "<unk>", "a", "b"]
    assert coder.encode("c b <unk> a").tolist() == [1, 3, 1, 2]
    assert learn_coder("spaces", ["a a a b b c"], min_count=3).tokens[2:] == ["a"]


def test_subwords_of_running_text():
    pytest.importorskip("sentencepiece")
    text = TEXT * 20
    coder = learn_coder("bpe", [text], size=330)
    ids = coder.encode(text)
    assert len(ids) < len(text)
    assert written(coder, ids) == text
    assert written(coder, coder.encode("日本 ok")) == "日本 ok"


@pytest.mark.parametrize("unit", ["characters", "words", "spaces", "bpe"])
def test_a_coder_is_made_again_from_its_state(unit):
    if unit == "bpe":
        pytest.importorskip("sentencepiece")
    coder = learn_coder(unit, [TEXT * 5], size=330, lower=True)
    again = load_coder(coder.state())
    assert (again.encode(TEXT) == coder.encode(TEXT)).all()
    assert len(again) == len(coder)


def test_another_unit_is_refused_with_a_hint():
    with pytest.raises(InputError, match="did you mean 'words'"):
        learn_coder("word", ["a"])


def test_pieces_of_one_document_have_one_end(tmp_path):
    stream = write_stream(tmp_path / "a.stream", [[1, 2], [3]], joined=True, end=9)
    assert (stream.values.tolist(), stream.ends.tolist()) == ([1, 2, 3, 9], [4])
