import csv
import gzip
import hashlib
import io
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recur.data import fingerprint, read_table
from recur.errors import InputError, MissingExtra

TABLE = 'text,label\n"a, ""b""",1\nc,0\n'
ROWS = [{"text": 'a, "b"', "label": "1"}, {"text": "c", "label": "0"}]


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def rows(path: Path, *columns: str, skip_bad_rows: bool = False) -> list[dict[str, str]]:
    return list(read_table(path, columns or ("text", "label"), skip_bad_rows=skip_bad_rows))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", TABLE),
        ("t.csv.gz", TABLE),
        ("T.CSV", TABLE),
        ("bom.csv", "\ufeff" + TABLE),
        ("windows.csv", TABLE.replace("\n", "\r\n")),
        ("mac.csv", TABLE.replace("\n", "\r")),
        ("no_end.csv", TABLE[:-1]),
        ("blank_lines.csv", "\n" + TABLE.replace("\nc", "\n\n\nc") + "\n\n"),
        ("spaced_header.csv", TABLE.replace(",label", ", label ")),
        ("other_order.csv", 'label,x,text\n1,9,"a, ""b"""\n0,9,c\n'),
        ("t.tsv", 'text\tlabel\n"a, ""b"""\t1\nc\t0\n'),
        ("t.tsv.gz", 'text\tlabel\r\n"a, ""b"""\t1\r\nc\t0\r\n'),
        ("t.jsonl", '{"text": "a, \\"b\\"", "label": 1, "x": null}\n\n{"label": "0", "text": "c"}'),
        ("t.ndjson.gz", '\ufeff{"text": "a, \\"b\\"", "label": 1}\r\n{"label": "0", "text": "c"}\r\n'),
    ],
)
def test_all_text_formats_read_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    assert rows(file(tmp_path, name, content)) == ROWS


def test_a_table_is_read_anew_each_time_and_gives_only_the_columns_asked_for(tmp_path: Path) -> None:
    table = read_table(file(tmp_path, "t.csv", TABLE), ["label"])
    assert list(table) == list(table) == [{"label": "1"}, {"label": "0"}]
    assert table.skipped == []
    assert table.path == tmp_path / "t.csv"


def test_rows_are_streamed(tmp_path: Path) -> None:
    path = file(tmp_path, "t.csv", "text\n" + "a\n" * 100_000 + '"never closed\n')
    assert next(iter(read_table(path, ["text"]))) == {"text": "a"}


def test_a_field_may_be_longer_than_pythons_limit(tmp_path: Path) -> None:
    text = "word " * 60_000
    assert rows(file(tmp_path, "t.csv", f"text\n{text}\n"), "text") == [{"text": text}]


def test_json_numbers_and_truth_values_become_text(tmp_path: Path) -> None:
    path = file(tmp_path, "t.jsonl", '{"a": 1.5, "b": true, "c": "我"}\n')
    assert rows(path, "a", "b", "c") == [{"a": "1.5", "b": "true", "c": "我"}]


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]))] * 2), min_size=1, max_size=8),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]], end: str
) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label"), *cells])
    path = file(tmp_path_factory.mktemp("csv"), "t.csv.gz", buffer.getvalue())
    assert [tuple(row.values()) for row in read_table(path, ["text", "label"])] == cells


BAD_ROWS = [
    ("csv", "text,label\na,1\nb\nc,0\n", "line 3: expected 2 fields as in the header, found 1"),
    ("csv", "text,label\na,1\nb,1,2\nc,0\n", "line 3: expected 2 fields as in the header, found 3"),
    ("csv", 'text,label\n"a\n\na",1\nb\nc,0\n', "line 5: expected 2 fields as in the header, found 1"),
    ("csv", 'text,label\na,1\n"b\nb",1,2\nc,0\n', "lines 3-4: expected 2 fields as in the header, found 3"),
    ("csv", 'text,label\r\n"a\r\na",1\r\nb\r\nc,0\r\n', "line 4: expected 2 fields as in the header, found 1"),
    ("csv", 'text,label\na,1\n"b"b,1\nc,0\n', "line 3: expected fields, found text behind a closing quote"),
    ("csv", b"text,label\na,1\n\xffb,1\nc,0\n", "line 3: expected UTF-8, found the byte 0xff"),
    ("tsv", "text\tlabel\na\t1\nb,1\nc\t0\n", "line 3: expected 2 fields as in the header, found 1"),
    (
        "jsonl",
        '{"text": "a", "label": 1}\n{"text"\n{"text": "c", "label": 0}\n',
        "line 2: expected a JSON object, found ",
    ),
    (
        "jsonl",
        '{"text": "a", "label": 1}\n\n[1]\n{"text": "c", "label": 0}\n',
        "line 3: expected a JSON object, found [1]",
    ),
    (
        "jsonl",
        '{"text": "a", "label": 1}\n{"txt": "b", "label": 1}\n{"text": "c", "label": 0}\n',
        "line 2: there is no 'text', did you mean 'txt'?; the keys are txt, label",
    ),
    (
        "jsonl",
        '{"text": "a", "label": 1}\n{"text": "b", "label": null}\n{"text": "c", "label": 0}\n',
        "line 2: expected text or a number as 'label', found null",
    ),
    (
        "jsonl",
        '{"text": "a", "label": 1}\n{"text": "\\ud800", "label": 1}\n{"text": "c", "label": 0}\n',
        "line 2: expected UTF-8, found half a character, \\ud800",
    ),
    (
        "jsonl",
        b'{"text": "a", "label": 1}\n{"text": "\xe9", "label": 1}\n{"text": "c", "label": 0}\n',
        "line 2: expected UTF-8, found the byte 0xe9",
    ),
]


@pytest.mark.parametrize(("ending", "content", "message"), BAD_ROWS)
def test_a_bad_row_is_named_or_skipped(tmp_path: Path, ending: str, content: str | bytes, message: str) -> None:
    path = file(tmp_path, f"t.{ending}", content)
    remedy = ".*; correct it, or leave such rows out with --skip-bad-rows"
    with pytest.raises(InputError, match=f"^{re.escape(f'{path}, {message}')}{remedy}$"):
        rows(path)
    table = read_table(path, ["text", "label"], skip_bad_rows=True)
    for _ in range(2):  # counted anew each time
        assert [row["label"] for row in table] == ["1", "0"]
        assert len(table.skipped) == 1
        assert table.skipped[0].startswith(message)


def test_a_huge_json_number_is_a_bad_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1: expected a JSON object, found Exceeds the limit"):
        rows(file(tmp_path, "t.jsonl", '{"text": ' + "9" * 5000 + "}"), "text")


@pytest.mark.parametrize("skip", [False, True])
def test_a_quote_that_is_never_closed_is_an_error(tmp_path: Path, skip: bool) -> None:
    path = file(tmp_path, "t.csv", 'text,label\na,1\n"b,1\nc,0\nd,0\n')
    with pytest.raises(
        InputError, match=r"t.csv, line 3: expected a closing quote, found none up to line 5; close the quote"
    ):
        rows(path, skip_bad_rows=skip)


def test_broken_bytes_in_other_columns_do_no_harm(tmp_path: Path) -> None:
    assert rows(file(tmp_path, "t.csv", b"text,x\na,\xff\n"), "text") == [{"text": "a"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "t.csv is empty; expected a header line"),
        ("t.csv", "\n\n", "t.csv is empty; expected a header line"),
        ("t.csv.gz", "", "t.csv.gz is empty; expected a header line"),
        ("t.jsonl", "", "t.jsonl is empty; expected a JSON object in each line"),
        ("t.csv", "text,label\n", "t.csv: expected rows, found none; give a file with data"),
        ("t.jsonl", "\n \n", "t.jsonl: expected rows, found none; give a file with data"),
        (
            "t.csv",
            "txt,label,id\na,1,2\n",
            "t.csv: there is no column 'text', did you mean 'txt'?; the columns are txt, label, id",
        ),
        ("t.csv", "text,x,text,label\n", "t.csv: expected one column 'text', found several; rename all but one"),
        (
            "t.csv",
            "text;label\n",
            "the columns are text;label (it seems to be separated by ';'",
        ),
        ("t.tsv", "text,label\n", "(it seems to be separated by ',': .csv means commas, .tsv means tabs)"),
        (
            "t.csv",
            b"t\xffxt,label\n",
            "t.csv, line 1: expected a header in UTF-8, found other bytes; save the file as UTF-8",
        ),
        ("t.csv", "text,label\na,1\n".encode("utf-16"), "line 1: expected a header in UTF-8, found other bytes"),
        ("t.csv", '"text"x,label\n', "t.csv, line 1: expected a header, found text behind a closing quote"),
        ("t.txt", TABLE, "expected a name that ends in .csv, .tsv, .jsonl, .ndjson, .parquet (or .gz behind any but"),
        ("t.parquet.gz", TABLE, "found 't.parquet.gz'; rename or convert the file"),
    ],
)
def test_a_file_that_is_no_table_is_an_error(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        rows(file(tmp_path, name, content))


def test_only_bad_rows_are_an_error_even_when_skipped(tmp_path: Path) -> None:
    path = file(tmp_path, "t.csv", "text,label\na\nb\n")
    with pytest.raises(
        InputError, match=r"expected rows, found 2 bad ones \(line 2: expected 2 fields as in the header, found 1\)"
    ):
        rows(path, skip_bad_rows=True)


def test_a_missing_file_is_an_error_that_proposes_another(tmp_path: Path) -> None:
    file(tmp_path, "train.csv", TABLE)
    with pytest.raises(InputError, match=r"there is no file .*trian.csv, did you mean 'train.csv'\?$"):
        read_table(tmp_path / "trian.csv", ["text"])
    with pytest.raises(InputError, match=r"there is no file .*/nowhere/t.csv$"):
        read_table(tmp_path / "nowhere" / "t.csv", ["text"])
    with pytest.raises(InputError, match="there is no file"):
        fingerprint(tmp_path / "x.bin")


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(InputError, match=r"t.csv is a folder; give a file"):
        read_table(tmp_path / "t.csv", ["text"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    path = file(tmp_path, "t.csv", TABLE)
    path.chmod(0)
    with pytest.raises(InputError, match=r"t.csv cannot be read: Permission denied"):
        read_table(path, ["text"])


def test_gzip_must_be_what_the_name_says(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_text(TABLE)
    with pytest.raises(
        InputError, match=r"t.csv.gz is named .gz but is not a gzip file; name it t.csv, or fetch it again"
    ):
        rows(tmp_path / "t.csv.gz")
    (tmp_path / "u.csv").write_bytes(gzip.compress(TABLE.encode()))
    with pytest.raises(InputError, match=r"u.csv is a gzip file; name it u.csv.gz"):
        rows(tmp_path / "u.csv")


def test_damaged_gzip_files_are_an_error(tmp_path: Path) -> None:
    lines = "".join(f"{hashlib.sha256(bytes([i])).hexdigest()},1\n" for i in range(256))
    whole = gzip.compress(("text,label\n" + lines).encode())
    for damaged in (whole[:-200], whole[:5000] + b"\xff" * 100 + whole[5100:], whole[:-8] + bytes(8)):
        (tmp_path / "t.csv.gz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"t.csv.gz is a damaged or cut gzip file \(.*\); fetch or pack it again"):
            rows(tmp_path / "t.csv.gz")


def test_parquet_reads_the_same_rows_even_with_patterns_in_its_name(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "a[1] *?.parquet"
    plain = tmp_path / "plain.parquet"
    source = file(tmp_path, "t.csv", TABLE + "d,\n")
    duckdb.execute(f"COPY (SELECT * FROM read_csv('{source}', header=true)) TO '{plain}' (FORMAT parquet)")
    plain.rename(path)
    with pytest.raises(
        InputError, match=r"parquet, row 3: expected a value as 'label', found none; correct it, or leave"
    ):
        rows(path)
    table = read_table(path, ["text", "label"], skip_bad_rows=True)
    assert list(table) == ROWS
    assert table.skipped == ["row 3: expected a value as 'label', found none"]
    with pytest.raises(
        InputError, match=r"there is no column 'txt', did you mean 'text'\?; the columns are text, label$"
    ):
        read_table(path, ["txt"])


def test_what_is_not_parquet_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("duckdb")
    path = file(tmp_path, "t.parquet", TABLE)
    with pytest.raises(InputError, match=r"t.parquet: expected a Parquet file, found .*; fetch or write it again"):
        read_table(path, ["text"])
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(MissingExtra, match=r"t.parquet needs the package duckdb: pip install 'recur\[data\]'"):
        read_table(path, ["text"])


def test_fingerprint_is_name_size_and_sha256(tmp_path: Path) -> None:
    path = file(tmp_path, "t.csv", TABLE)
    found = fingerprint(path)
    assert found == {"file": "t.csv", "bytes": 28, "sha256": hashlib.sha256(TABLE.encode()).hexdigest()}
    assert json.dumps(found)
