"""The command `recur show`: what is derived from the equation of a cell, one of recur's or one in a file."""

import inspect
import re
import runpy
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from recur.errors import InputError, RecurError, nearest

if TYPE_CHECKING:
    from recur.cells import Cell

Form = Literal["listing", "graph", "latex", "ir", "assembly"]
Level = Literal["x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64"]


def show(
    cell: str,
    /,
    *,
    form: Annotated[Form, Parameter(name="--as")] = "listing",
    hidden_size: int | None = None,
    input_size: int | None = None,
    proj_size: int | None = None,
    batch: int | None = None,
    dtype: Literal["float32", "float64"] = "float32",
    target: Level | None = None,
) -> None:
    """Print what is derived from the equation of a cell.

    Parameters
    ----------
    cell
        Name of a cell, or a cell in a file of your own: path/to/file.py:ClassName. The file is run.
    form
        listing: the program of a step, forward and backward, and its costs; graph: value by value; latex: the
        formula; ir: LLVM IR of the kernels; assembly: their machine code.
    hidden_size
        H, to see the costs in the listing as numbers too.
    input_size
        D, with --hidden-size; as large as that by default.
    proj_size
        P, with --hidden-size, for a projected cell.
    batch
        Rows of a batch, with --hidden-size; 1 by default.
    dtype
        Of the numbers, in listing, ir and assembly.
    target
        Processor of ir and assembly; this one by default.
    """
    given = {"--input-size": input_size, "--proj-size": proj_size, "--batch": batch, "--hidden-size": hidden_size}
    for flag, value in given.items():
        if value is not None and value < 1:
            raise InputError(f"{flag} must be at least 1, got {value}")
        if value is not None and (hidden_size is None or form != "listing"):
            raise InputError(f"{flag} goes with --as listing and --hidden-size: it says at which sizes costs are given")
    if target is not None and form not in ("ir", "assembly"):
        raise InputError(f"--target goes with --as ir or --as assembly, got --as {form}")
    # torch takes a second to import
    import torch

    from recur.compiler import show
    from recur.compiler.target import named

    found, file = load_cell(cell)
    if hidden_size is not None and found.projected != (proj_size is not None):
        raise InputError(f"--proj-size must {'' if found.projected else 'not '}be given for {found!r}")
    numbers, processor = getattr(torch, dtype), named(target) if target else None
    sizes = {"B": batch or 1, "D": input_size or hidden_size, "H": hidden_size, "P": proj_size}
    counted = {name: size for name, size in sizes.items() if size} if hidden_size else None
    writers = {
        "graph": lambda: show.graph(found),
        "listing": lambda: show.listing(found, counted, numbers),
        "latex": lambda: show.latex(found),
        "ir": lambda: show.ir(found, numbers, processor),
        "assembly": lambda: show.assembly(found, numbers, processor),
    }
    with _blamed(file):
        text = writers[form]()
    print(text)


def load_cell(text: str) -> tuple["Cell", Path | None]:
    """Return a cell by its name, or one from `path/to/file.py:ClassName`, and that file.

    Where the file defines one cell only, its name may be left out; it may also be that of a cell made in the file. The
    file is run as a module.

    Raises:
        InputError: there is no such cell, it needs arguments, or the file raises an error.
    """
    from recur.cells import cell_named

    match = re.fullmatch(r"(.+\.py)(?::(\w+))?", text)
    if match:
        file = Path(match[1])
        return _cell_in(file, match[2]), file
    if re.search(r"[/\\:]", text):
        raise InputError(f"CELL must be a cell's name or path/to/file.py:ClassName, got {text!r}")
    try:
        return cell_named(text), None
    except InputError as error:
        raise InputError(f"{error}; a cell of your own is path/to/file.py:ClassName") from None


def _cell_in(file: Path, name: str | None) -> "Cell":
    from recur.cells import Cell

    found = _run(file)
    classes = {key: value for key, value in found.items() if isinstance(value, type) and issubclass(value, Cell)}
    own = [key for key, value in classes.items() if value.__module__ == _MODULE]
    if name is None:
        if len(own) != 1:
            remedy = f"name it: {file}:{own[0]}" if own else "a cell is a class that inherits from recur.Cell"
            raise InputError(f"{file} must define one cell, found {', '.join(own) or 'none'}; {remedy}")
        name = own[0]
    value = found.get(name)
    if isinstance(value, Cell):
        return value
    if name not in classes:
        what = "no cell" if name in found else "nothing"
        raise InputError(f"{name} in {file} must be a cell, found {what} of that name{nearest(name, own)}")
    needed = [
        argument.name
        for argument in inspect.signature(classes[name]).parameters.values()
        if argument.default is argument.empty and argument.kind not in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)
    ]
    if needed:
        raise InputError(
            f"{name} in {file} needs {', '.join(needed)}; write cell = {name}(...) in the file and show {file}:cell"
        )
    with _blamed(file):
        return classes[name]()


# what `__name__` is in the file
_MODULE = "recur_cell"


def _run(file: Path) -> dict[str, Any]:
    """Run a file and return its names."""
    if not file.is_file():
        raise InputError(f"CELL must name a file that is there, found none at {file}")
    # so that it finds its neighbours
    folder = str(file.parent.resolve())
    sys.path.insert(0, folder)
    try:
        with _blamed(file):
            return runpy.run_path(str(file), run_name=_MODULE)
    finally:
        sys.path.remove(folder)


@contextmanager
def _blamed(file: Path | None) -> Iterator[None]:
    """Turn what the code of a user's file raises into an error that says where."""
    try:
        yield
    except RecurError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
        if isinstance(error, SyntaxError) and error.filename == str(file):
            lines.append(error.lineno)
        if not lines:
            raise
        raise InputError(f"{file}, line {lines[-1]}: {type(error).__name__}: {error}") from error
