"""Tables of text from CSV, TSV, JSON-lines and Parquet files, row by row, with errors that name the line."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

from recur.data.sources import broken_text, check_file, open_binary, tell_watcher
from recur.errors import InputError, MissingExtra, nearest

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

Row = dict[str, str]


class Table:
    """Some columns of a file, streamed: every `for` reads the file anew and holds one row at a time.

    Made by `read_table`. `skipped` says what was wrong with each row left out, complete after the last row; `place`
    says where the row handed out last stands.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        skip_bad_rows: bool,
        filled: Sequence[str] = (),
        header: bool = True,
        quotes: bool = True,
        blank: bool = False,
    ) -> None:
        self.path = path
        self.columns = list(columns)
        self.skip_bad_rows = skip_bad_rows
        self.filled = list(filled)
        self.blank = blank
        self.header = header
        self.quotes = quotes
        self.skipped: list[str] = []
        # where the reader is: the first and the last line of the row, or its number
        self.unit, self.at = "line", (0, 0)

    @property
    def place(self) -> str:
        """Where the row handed out last stands."""
        first, last = self.at
        return f"{self.unit} {first}" if first == last else f"{self.unit}s {first}-{last}"

    def __iter__(self) -> Iterator[Row]:
        """Yield each row as column -> text.

        Raises:
            InputError: a row that cannot be read (unless such rows are skipped), a quote that is never closed, a
                damaged file, or no rows at all.
        """
        self.skipped = []
        read = {".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet}.get(_format(self.path), _read_json)
        rows = 0
        for row in read(self):
            for column in self.filled:
                if not row[column].strip():
                    self.bad(f"expected a value as {column!r}, found none")
                    break
            else:
                rows += 1
                yield row
        if not rows:
            bad = f"{len(self.skipped)} bad ones ({self.skipped[0]})" if self.skipped else "none"
            raise InputError(f"{self.path}: expected rows, found {bad}; give a file with data")

    def check(self, names: list[str]) -> None:
        """See that a file with columns of these `names` has those asked for, each once."""
        for column in self.columns:
            if column in names and names.count(column) > 1:
                raise InputError(f"{self.path}: expected one column {column!r}, found several; rename all but one")
            if column not in names:
                raise InputError(
                    f"{self.path}: there is no column {column!r}{nearest(column, names)}; "
                    f"the columns are {', '.join(names)}{separator_hint(self.path, names)}"
                )

    def bad(self, problem: str) -> None:
        """Note a bad row, or raise if there must be none."""
        if not self.skip_bad_rows:
            # tables of series keep their rows: one that is left out is a gap in time
            remedy = "" if self.blank else ", or leave such rows out with --skip-bad-rows"
            raise InputError(f"{self.path}, {self.place}: {problem}; correct it{remedy}")
        self.skipped.append(f"{self.place}: {problem}")


def read_table(
    path: str | Path,
    columns: Sequence[str],
    *,
    skip_bad_rows: bool = False,
    filled: Sequence[str] = (),
    header: bool = True,
    quotes: bool = True,
    blank: bool = False,
) -> Table:
    """Open a table of texts: .csv, .tsv, .jsonl (or .ndjson), each also as .gz, or .parquet.

    Text is UTF-8 with or without a byte-order mark, with the line ends of any system. CSV and TSV need a header line; a
    field in double quotes may hold separators and line ends; blank lines are no rows. In JSON lines every line is an
    object; numbers and truth values become text. Parquet needs the extra `data`.

    Args:
        path: the file; its ending says the format.
        columns: the names of the columns to read.
        skip_bad_rows: leave broken rows out and note them in `Table.skipped` instead of raising.
        filled: those of the columns in which a row without a value is a broken one.
        header: False for CSV and TSV files that begin with data; their columns are called 1, 2 and so on.
        quotes: False where double quotes in CSV and TSV files are ordinary characters.
        blank: nothing in a cell of JSON lines or Parquet, or a missing key, is an empty text and no broken row.

    Returns:
        The table. File and header have been checked; rows are read and checked when it is iterated.

    Raises:
        InputError: no such file, another format, an empty file, or a column that is not there.
        MissingExtra: a Parquet file without duckdb.
    """
    table = Table(Path(path), columns, skip_bad_rows, filled, header, quotes, blank)
    format = _format(table.path)
    if format == ".parquet":
        with _parquet(table) as (_, names):
            table.check(names)
    else:
        with _text(table.path) as file:
            if format in (".csv", ".tsv"):
                table.check(_names(table, _csv_reader(table, file)))
            elif not file.read(1):
                raise InputError(f"{table.path} is empty; expected a JSON object in each line")
    return table


def column_names(path: str | Path) -> list[str]:
    """Return the names of a table's columns; of JSON lines the keys of the first object.

    Raises:
        InputError: no such file, another format, or an empty file.
        MissingExtra: a Parquet file without duckdb.
    """
    table = read_table(path, [])
    if _format(table.path) == ".parquet":
        with _parquet(table) as (_, names):
            return names
    with _text(table.path) as file:
        if _format(table.path) in (".csv", ".tsv"):
            return _names(table, _csv_reader(table, file))
        first = next((line for line in file if not line.isspace()), "{}")
    try:
        return list(json.loads(first))
    except ValueError as error:
        raise InputError(f"{table.path}, line 1: expected a JSON object, found {first.strip()[:40]}") from error


def fingerprint(path: str | Path) -> dict[str, str | int]:
    """Return the name, the size in bytes and the SHA-256 of a file, or of all in a folder, to recognise it by later.

    That of a folder is the SHA-256 of a line for each file below it that is not hidden, in the order of their paths:
    the SHA-256 of its content in hexadecimal, a blank, its path within the folder with slashes, a line end.

    Raises:
        InputError: no such file.
    """
    path = Path(path)
    if path.is_dir():
        return _folder_fingerprint(path)
    check_file(path)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"file": path.name, "bytes": file.tell(), "sha256": digest}


def _folder_fingerprint(folder: Path) -> dict[str, str | int]:
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    total, lines = 0, hashlib.sha256()
    for name in sorted(paths):
        if not any(part.startswith(".") for part in name.split("/")):
            one = fingerprint(paths[name])
            total += int(one["bytes"])
            lines.update(f"{one['sha256']} {name}\n".encode(errors="surrogateescape"))
    return {"file": folder.resolve().name, "bytes": total, "sha256": lines.hexdigest()}


def _format(path: Path) -> str:
    name = path.name.lower()
    format = Path(name.removesuffix(".gz")).suffix
    if format not in FORMATS or (format == ".parquet" and name.endswith(".gz")):
        raise InputError(
            f"{path}: expected a name that ends in {', '.join(FORMATS)} (or .gz behind any but .parquet), "
            f"found {path.name!r}; rename or convert the file"
        )
    return format


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    with open_binary(path) as file:
        # broken bytes become surrogates here and are found where the row is known; newline="" leaves line ends alone
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        yield text


def _csv_reader(table: Table, file: IO[str]) -> Any:
    # the limit is Python's guard against a quote that is never closed; the default, 128 kB, is below some honest texts
    csv.field_size_limit(1 << 28)
    delimiter = "\t" if _format(table.path) == ".tsv" else ","
    if not table.quotes:
        return csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    return csv.reader(file, delimiter=delimiter, strict=True)


def _names(table: Table, reader: Any) -> list[str]:
    """Return the names of the columns, from the first row that is not blank."""
    path, expected = table.path, "a header" if table.header else "fields"
    try:
        names = next((fields for fields in reader if fields), None)
    except csv.Error as error:
        raise InputError(f"{path}, line 1: expected {expected}, found {_csv_problem(error)}") from error
    if names is None:
        raise InputError(f"{path} is empty; expected a header line with the names of the columns")
    if not table.header:
        return [str(number) for number in range(1, len(names) + 1)]
    if any(map(broken_text, names)):
        raise InputError(f"{path}, line 1: expected a header in UTF-8, found other bytes; save the file as UTF-8")
    return [name.strip() for name in names]


def separator_hint(path: Path, names: list[str]) -> str:
    """Say what seems to separate the columns of a file whose header is a single one; empty where nothing does."""
    other = {".csv": ("\t", ";"), ".tsv": (",", ";")}.get(_format(path), ())
    found = [mark for mark in other if len(names) == 1 and mark in names[0]]
    if not found:
        return ""
    return f" (it seems to be separated by {found[0]!r}: .csv means commas, .tsv means tabs)"


def _csv_problem(error: csv.Error) -> str:
    if "expected after" in str(error):
        return "text behind a closing quote (a quote inside a quoted field must be doubled)"
    return str(error)


def _read_csv(table: Table) -> Iterator[Row]:
    with _text(table.path) as file:
        reader = _csv_reader(table, file)
        names = _names(table, reader)
        if not table.header:
            file.seek(0)
            reader = _csv_reader(table, file)
        chosen, width = [(column, names.index(column)) for column in table.columns], len(names)
        while True:
            first = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                if "unexpected end" in str(error) or "limit" in str(error):
                    # not skipped, as all lines behind the quote would be lost with it
                    raise InputError(
                        f"{table.path}, line {first}: expected a closing quote, found none up to line "
                        f"{reader.line_num}; close the quote, or double it if it is part of the text"
                    ) from error
                table.at = first, reader.line_num
                table.bad(f"expected fields, found {_csv_problem(error)}")
                continue
            if fields is None:
                return
            if not fields:
                continue
            table.at = first, reader.line_num
            if len(fields) != width:
                first_row = "header" if table.header else "first row"
                table.bad(f"expected {width} fields as in the {first_row}, found {len(fields)}")
                continue
            row = {column: fields[i] for column, i in chosen}
            if problem := _broken(row):
                table.bad(problem)
            else:
                yield row


def _broken(row: Row) -> str | None:
    """Say what of a row is not Unicode, if something is."""
    for text in row.values():
        if not text.isascii() and (problem := broken_text(text)):
            return problem
    return None


def _read_json(table: Table) -> Iterator[Row]:
    with _text(table.path) as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            table.at = number, number
            row, problem = _json_row(line, table.columns, table.blank)
            if problem:
                table.bad(problem)
            else:
                yield row


def _json_row(line: str, columns: list[str], blank: bool) -> tuple[Row, str | None]:
    """Return the chosen values of an object, or what is wrong with it."""
    row: Row = {}
    if problem := broken_text(line):
        return row, problem
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return row, f"expected a JSON object, found {error.msg[:1].lower()}{error.msg[1:]} at column {error.colno}"
    except (ValueError, RecursionError) as error:
        return row, f"expected a JSON object, found {error}"
    if not isinstance(value, dict):
        return row, f"expected a JSON object, found {line.strip()[:40]}"
    for column in columns:
        if blank and value.get(column) is None:
            row[column] = ""
            continue
        if column not in value:
            keys = list(value)
            return row, f"there is no {column!r}{nearest(column, keys)}; the keys are {', '.join(keys) or 'none'}"
        cell = value[column]
        if cell is None or isinstance(cell, dict | list):
            return row, f"expected text or a number as {column!r}, found {json.dumps(cell)[:40]}"
        row[column] = cell if isinstance(cell, str) else json.dumps(cell)
        if problem := broken_text(row[column]):
            return row, problem
    return row, None


@contextmanager
def _parquet(table: Table) -> Iterator[tuple[Any, list[str]]]:
    """Open a connection to duckdb and list the columns of the file."""
    check_file(table.path)
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra("duckdb", "data", f"the Parquet file {table.path}") from error
    try:
        with duckdb.connect(":memory:", config={"threads": 1}) as connection:
            described = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [_literal(table.path)])
            yield connection, [name for name, *_ in described.fetchall()]
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{table.path}: expected a Parquet file, found {reason}; fetch or write it again") from error


def _read_parquet(table: Table) -> Iterator[Row]:
    table.unit = "row"
    with _parquet(table) as (connection, _):
        names = ", ".join('"' + column.replace('"', '""') + '"::VARCHAR' for column in table.columns)
        query = f"SELECT {names} FROM read_parquet(?, binary_as_string=true)"
        (total,) = connection.execute("SELECT count(*) FROM read_parquet(?)", [_literal(table.path)]).fetchall()[0]
        cursor = connection.execute(query, [_literal(table.path)])
        rows = chain.from_iterable(iter(lambda: cursor.fetchmany(1000), []))
        for number, row in enumerate(rows, start=1):
            table.at = number, number
            if number % 10_000 == 0:
                tell_watcher(table.path, number, total)
            if table.blank:
                yield {c: v or "" for c, v in zip(table.columns, row, strict=True)}
            elif None in row:
                table.bad(f"expected a value as {table.columns[row.index(None)]!r}, found none")
            else:
                yield dict(zip(table.columns, row, strict=True))


def _literal(path: Path) -> str:
    """Return a path in which duckdb sees no patterns."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))
