import gzip
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import recur.data.vectors
from recur.data import Vocabulary, WordVectors, one_hot_table, read_vectors
from recur.errors import InputError

WORDS = ["the", "of", "a b c", "né", "我", "1", ". . ."]
NUMBERS: NDArray[np.float32] = np.random.default_rng(0).normal(size=(len(WORDS), 4)).astype(np.float32)


def save(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def as_text(words: list[str], header: bool, end: str = "\n", separator: str = " ") -> bytes:
    lines = [f"{len(words)} 4"] if header else []
    lines += [separator.join([w, *map(str, row.tolist())]) for w, row in zip(words, NUMBERS, strict=False)]
    return (end.join(lines) + end).encode()


def as_binary(words: list[str], newline: bytes) -> bytes:
    rows = (w.encode() + b" " + row.astype("<f4").tobytes() for w, row in zip(words, NUMBERS, strict=False))
    return f"{len(words)} 4\n".encode() + b"".join(row + newline for row in rows)


SPACELESS = [word for word in WORDS if " " not in word]


@pytest.mark.parametrize("block", [1, 16, 60, 1 << 22])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("glove.txt", as_text(WORDS, header=False)),
        ("glove.txt.gz", as_text(WORDS, header=False)),
        ("word2vec.txt", as_text(WORDS, header=True, end=" \n")),
        ("fasttext.vec", as_text(WORDS, header=True)),
        ("windows.txt", as_text(WORDS, header=False, end="\r\n")),
        ("tabs.txt", as_text(WORDS, header=True, separator="\t")),
        ("blank_lines.txt", as_text(WORDS, header=False, end="\n\n")),
        ("no_end.txt", as_text(WORDS, header=False)[:-1]),
        ("word2vec.bin", as_binary(SPACELESS, b"\n")),
        ("no_newlines.bin", as_binary(SPACELESS, b"")),
        ("word2vec.BIN.GZ", as_binary(SPACELESS, b"\n")),
    ],
)
def test_all_formats_in_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, block: int
) -> None:
    monkeypatch.setattr(recur.data.vectors, "_BLOCK", block)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    vectors = read_vectors(path)
    words = SPACELESS if ".bin" in name.lower() else WORDS
    assert vectors.words == words
    assert vectors.matrix.dtype == np.float32
    assert vectors.size == 4
    np.testing.assert_array_equal(vectors.matrix, NUMBERS[: len(words)])
    some = read_vectors(path, only={"我", "of", "nowhere"})
    assert some.words == ["of", "我"]
    np.testing.assert_array_equal(some.matrix, vectors.matrix[[1, words.index("我")]])
    nothing = read_vectors(path, only=[])
    assert nothing.matrix.shape == (0, 4)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.txt", b"a 1 2\n\xff\xfeb 3 4\n"),
        ("t.bin", b"2 2\na " + struct.pack("<2f", 1, 2) + b"\n\xff\xfeb " + struct.pack("<2f", 3, 4)),
    ],
)
def test_broken_utf8_in_words_is_replaced(tmp_path: Path, name: str, data: bytes) -> None:
    vectors = read_vectors(save(tmp_path / name, data))
    assert vectors.words == ["a", "\ufffd\ufffdb"]
    assert vectors.matrix.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.txt", b"", "t.txt is empty; expected a word and its numbers in each line"),
        ("t.txt", b"hello world\n", "t.txt, line 1: expected a word and its numbers, found b'hello world"),
        (
            "t.txt",
            b"a 1 2\nb 3\n",
            "t.txt, line 2: expected a word and 2 numbers, found 1; all rows must be of one size",
        ),
        (
            "t.txt",
            b"a 1 2\n\nb 3 4 5\n",
            "t.txt, line 3: expected a word and 2 numbers, found 3; all rows must be of one",
        ),
        ("t.txt", b"2 3\na 1 2\nb 3 4\n", "t.txt, line 2: expected a word and 3 numbers, found 2; all rows must be"),
        ("t.txt", b"a 1 2\nb\n", "t.txt, line 2: expected a word and 2 numbers, found 0;"),
        ("t.txt", b"a 1 2\nb 3 x\n", "t.txt, line 2: expected 2 numbers behind the word, found b'x'; correct the line"),
        ("t.txt", b"a 1 2\nb nan 1\n", "t.txt, line 2: expected finite numbers, found NaN or infinity; correct it"),
        ("t.txt", b"3 2\na 1 2\nb 3 4\n", "t.txt: expected 3 words as the header says, found 2; the file is cut"),
        ("t.bin", b"a 1 2\n", "t.bin: expected a word2vec .bin file, which begins with the number and the size of its"),
        ("t.bin", b"", "t.bin: expected a word2vec .bin file"),
        (
            "t.bin",
            as_binary(SPACELESS, b"\n")[:-9],
            "t.bin: expected 5 vectors of 4 numbers as the header says, found 4 whole ones; the file is cut or damaged",
        ),
        (
            "t.bin",
            as_binary(SPACELESS, b"\n") + b"more",
            "t.bin: expected 5 vectors of 4 numbers as the header says, found",
        ),
        (
            "t.bin",
            b"1 4\n" + b"x" * 20_000,
            "t.bin, word 1: expected a word and 4 numbers as the header says, found no",
        ),
        (
            "t.bin",
            b"2 1\na " + struct.pack("<f", 1) + b"\nb " + struct.pack("<f", np.inf),
            "t.bin, word 2: expected finite numbers, found NaN or infinity",
        ),
    ],
)
def test_a_file_that_is_not_what_it_says_is_an_error(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        read_vectors(save(tmp_path / name, data))


def test_line_numbers_are_right_behind_the_first_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recur.data.vectors, "_BLOCK", 50)
    path = save(tmp_path / "t.txt", b"a 1 2\n" * 100 + b"b 1\n")
    with pytest.raises(InputError, match=r"line 101: expected a word and 2 numbers, found 1"):
        read_vectors(path)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_vectors(tmp_path / "none.bin")
    with pytest.raises(InputError, match="is a folder; give a file"):
        read_vectors(tmp_path)
    data = gzip.compress(as_binary(SPACELESS, b"\n"))
    (tmp_path / "t.bin.gz").write_bytes(data[:-20])
    with pytest.raises(InputError, match=r"t\.bin\.gz is a damaged or cut gzip file"):
        read_vectors(tmp_path / "t.bin.gz")


def test_table_for_a_vocabulary() -> None:
    vectors = WordVectors(["b", "a", "b"], np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32))
    vocabulary = Vocabulary(["a", "x", "b", "y"])
    table, coverage = vectors.table(vocabulary, seed=3)
    assert table.shape == (6, 2)
    assert table.dtype == np.float32
    assert coverage == 0.5
    assert table[[0, 2, 4]].tolist() == [[0, 0], [3, 4], [1, 2]]  # the first b counts
    assert np.unique(table[[1, 3, 5]]).size == 6
    again, _ = vectors.table(vocabulary, seed=3)
    other, _ = vectors.table(vocabulary, seed=4)
    assert (table == again).all()
    assert (table[1] != other[1]).all()


def test_words_without_a_vector_spread_like_those_with_one() -> None:
    vectors = WordVectors(["a", "b"], np.array([[3, -3], [3, -3]], dtype=np.float32))
    table, coverage = vectors.table(Vocabulary([f"w{i}" for i in range(5000)]), seed=0)
    assert coverage == 0.0
    assert table[1:].std() == pytest.approx(3, rel=0.03)
    assert table[1:].mean() == pytest.approx(0, abs=0.1)


def test_the_vector_of_the_unknown_word_is_used_if_there_is_one() -> None:
    table, coverage = WordVectors(["<unk>"], np.ones((1, 2), dtype=np.float32)).table(Vocabulary(["a"]), seed=0)
    assert table[1].tolist() == [1, 1]
    assert coverage == 0.0


def test_nearest_words_by_cosine() -> None:
    matrix = np.array([[2, 0], [1, 1], [-1, 0], [0, 0]], dtype=np.float32)
    vectors = WordVectors(["east", "northeast", "west", "nowhere"], matrix)
    (first, second, third) = vectors.nearest("east", k=10)
    assert first == ("northeast", pytest.approx(0.5**0.5))
    assert second == ("nowhere", 0.0)
    assert third == ("west", -1.0)
    assert vectors.nearest("east", k=1) == [first]
    with pytest.raises(InputError, match=r"^'easy' is not among the 4 words of the vectors, did you mean 'east'\?$"):
        vectors.nearest("easy")
    with pytest.raises(InputError, match="k must be at least 1, got 0"):
        vectors.nearest("east", 0)


def test_one_hot_codes() -> None:
    assert one_hot_table(3).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert one_hot_table(3).dtype == np.float32


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shape", "word", "near"),
    [
        ("glove.6B.50d.top9k.txt.gz", (9163, 50), "king", "prince"),
        ("glove.twitter.27B.25d.12k.txt.gz", (11925, 25), "king", "queen"),
        ("GoogleNews-vectors-8k-300d.bin.gz", (8000, 300), "king", "queen"),
        ("christmas-carol-200d.bin", (786, 200), "Scrooge", None),
    ],
)
def test_real_files(name: str, shape: tuple[int, int], word: str, near: str | None) -> None:
    if "RECUR_TEST_DATA" not in os.environ:
        pytest.skip("RECUR_TEST_DATA is not set")
    vectors = read_vectors(Path(os.environ["RECUR_TEST_DATA"]) / "wordvecs" / name)
    assert vectors.matrix.shape == shape
    assert len(vectors.words) == shape[0]
    found = [other for other, _ in vectors.nearest(word, 10)]
    assert near is None or near in found
