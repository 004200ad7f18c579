import gzip
from pathlib import Path

import pytest

from recur import InputError
from recur.data import AlignedFiles, read_table


def write(folder: Path, *texts: str | bytes) -> list[Path]:
    paths = [folder / f"part.{i}" for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return paths


def test_lines_come_in_pairs_with_any_line_end_and_blank_ones(tmp_path: Path):
    files = write(tmp_path, "\ufeffeins\r\n\r\ndrei", "one\ntwo\nthree\n")
    assert list(AlignedFiles(*files)) == [("eins", "one"), ("", "two"), ("drei", "three")]


def test_gzip_and_rereading(tmp_path: Path):
    for name, text in (("a.gz", "x\ny\n"), ("b.gz", "1\n2\n")):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    pairs = AlignedFiles(tmp_path / "a.gz", tmp_path / "b.gz")
    assert list(pairs) == list(pairs) == [("x", "1"), ("y", "2")]


@pytest.mark.parametrize(
    ("texts", "counts"),
    [(("a\nb\nc\n", "1\n"), "3 and 1"), (("a\n", "1\n2\n3\n4"), "1 and 4"), (("", "1\n"), "0 and 1")],
)
def test_different_numbers_of_lines(tmp_path: Path, texts: tuple[str, str], counts: str):
    files = write(tmp_path, *texts)
    with pytest.raises(InputError, match=rf"part.0 and .*part.1 must have as many lines, got {counts};"):
        list(AlignedFiles(*files))


def test_bytes_that_are_no_text(tmp_path: Path):
    files = write(tmp_path, "a\nb\n", b"1\n\xff\n")
    with pytest.raises(InputError, match=r"part.1, line 2: expected UTF-8, found the byte 0xff; .*--skip-bad-rows"):
        list(AlignedFiles(*files))
    pairs = AlignedFiles(*files, skip_bad_rows=True)
    assert list(pairs) == [("a", "1")]
    assert len(pairs.skipped) == 1


def test_one_file_and_three(tmp_path: Path):
    files = write(tmp_path, "a\nb\n", "1\n2\n", "x\ny\n")
    assert list(AlignedFiles(files[0])) == [("a",), ("b",)]
    assert list(AlignedFiles(*files)) == [("a", "1", "x"), ("b", "2", "y")]


def test_no_lines(tmp_path: Path):
    with pytest.raises(InputError, match="expected lines, found none"):
        list(AlignedFiles(*write(tmp_path, "", "")))


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(InputError, match="there is no file"):
        AlignedFiles(*write(tmp_path, "a"), tmp_path / "nothing")


def test_a_table_without_header(tmp_path: Path):
    path = tmp_path / "pairs.tsv"
    path.write_text('Go.\tVa !\n"Look," she said.\tRegarde.\n')
    table = read_table(path, ["2", "1"], header=False, quotes=False)
    assert list(table) == [{"2": "Va !", "1": "Go."}, {"2": "Regarde.", "1": '"Look," she said.'}]
    with pytest.raises(InputError, match="there is no column '3'; the columns are 1, 2"):
        read_table(path, ["3"], header=False)
    with pytest.raises(InputError, match="line 2: expected fields, found text behind a closing quote"):
        list(read_table(path, ["1"], header=False))
