"""Flags made from an options dataclass, so that each option is written down once."""

import dataclasses
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from cyclopts import Parameter, Token

from recur.tasks.options import field_docs, flag


def with_flags(options: type, function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `function(**given)` a flag for each field of `options`; `given` holds those that were used.

    Args:
        options: a dataclass with a docstring per field.
        function: the command; its last parameter is `**given`.
    """
    docs, hints = field_docs(options), typing.get_type_hints(options)
    fields = {
        field.name: Annotated[hints[field.name], _parameter(field, hints[field.name], docs[field.name])]
        for field in dataclasses.fields(options)
    }
    flags = typing.TypedDict("flags", fields, total=False)  # type: ignore[misc]
    function.__annotations__["given"] = typing.Unpack[flags]
    return function


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
