"""Flags made from an options dataclass, so that each option is written down once."""

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter, Token

from recur.tasks.options import field_docs, flag
from recur.tasks.registry import entries


def with_flags(options: type, function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `function(**given)` a flag for each field of `options`; `given` holds those that were used.

    Args:
        options: a dataclass with a docstring per field.
        function: the command; its last parameter is `**given`.
    """
    return _with(dict(_flags(options)), function)


def with_task_flags(parts: Sequence[str], function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command on runs of any task, `function(run, **given)`, the flags of all tasks.

    Args:
        parts: "columns", "decoding" of `recur.tasks.registry.Entry`.
        function: the command; its last parameter is `**given`.
    """
    merged: dict[str, tuple[Any, str, list[str]]] = {}
    for task, entry in entries():
        for kind in (getattr(entry, part) for part in parts):
            docs, hints = field_docs(kind), typing.get_type_hints(kind)
            for field in dataclasses.fields(kind):
                known = merged.setdefault(field.name, (hints[field.name], docs[field.name], []))
                assert known[0] == hints[field.name], f"{field.name} must be of one type in all tasks"
                known[2].append(task)
    flags = {}
    for name, (hint, doc, tasks) in merged.items():
        shown = f"{', '.join(tasks)}: {doc}"
        flags[name] = Annotated[hint, Parameter(name=flag(name), help=shown, negative="", show_default=False)]
    return _with(flags, function)


def _with(flags: Mapping[str, Any], function: Callable[..., Any]) -> Callable[..., Any]:
    used = typing.TypedDict("used", dict(flags), total=False)  # type: ignore[misc]  # noqa: UP013
    function.__annotations__["given"] = typing.Unpack[used]
    return function


def _flags(options: type) -> Iterator[tuple[str, Any]]:
    docs, hints = field_docs(options), typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        hint = hints[field.name]
        yield field.name, Annotated[hint, _parameter(field, hint, docs[field.name])]


def _parameter(field: dataclasses.Field[Any], hint: Any, doc: str) -> Parameter:
    default = field.default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    shown = "" if default in (None, "", dataclasses.MISSING) or isinstance(default, bool) else f" [default: {default}]"
    several = typing.get_origin(hint) is tuple
    return Parameter(
        name=flag(field.name),
        help=f"{doc.rstrip('.')}{', comma separated' if several else ''}.{shown}",
        converter=_split if several else None,
        # on by default: only --no-... says something
        negative=None if isinstance(default, bool) and default else "",
        show_default=False,
    )


def _split(hint: Any, tokens: Sequence[Token]) -> tuple[Any, ...]:
    """Turn `a,b` and repeated flags alike into one tuple."""
    convert = typing.get_args(hint)[0]
    return tuple(convert(part.strip()) for token in tokens for part in token.value.split(",") if part.strip())
