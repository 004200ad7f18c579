"""From LLVM assembly to addresses that can be called: compiled once, kept in the process and on disk.

Code that is loaded is never unloaded: kernels hold raw addresses.
"""

import ctypes
import gc
import hashlib
import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from recur.compiler import disk
from recur.compiler.target import LOCK, NotCompilable, Target, host, llvm, missing

__all__ = ["CacheInfo", "NotCompilable", "assembly", "available", "cache_info", "load", "object_code", "quick"]

# level 1 makes the same code of kernels as 2, a little sooner. The code model for code that is loaded: addresses of 64
# bits, wherever the system puts code and constants
_OPTIONS = {"opt": 1, "codemodel": "jitdefault", "jit": True}
_libraries: dict[bytes, "_Library"] = {}
_counts = {"compiled": 0, "loaded": 0}


class CacheInfo(NamedTuple):
    """What was compiled in this process, what came from disk, and where objects are kept."""

    compiled: int
    """Modules compiled by this process."""
    loaded: int
    """Modules that were on disk already."""
    folder: str | None
    """The folder of compiled objects; None where none are kept."""
    reason: str | None
    """Why none are kept."""


def load(ir_text: str, functions: Sequence[str], target: Target | None = None) -> dict[str, int]:
    """Return the addresses of `functions` of a module, compiled now or before, for this processor.

    Args:
        ir_text: the module in LLVM assembly. It is trusted: what it says is run.
        functions: names of functions that it defines.
        target: what to compile for; must run here. By default `host()`.

    Raises:
        NotCompilable: machine code cannot be made or loaded here.
        RuntimeError: LLVM refuses the text, a defect of whoever wrote it.
    """
    target = target or host()
    key = _key(ir_text, target)
    with LOCK:
        library = _libraries.get(key)
        if library is None:
            if lacking := missing(target):
                raise NotCompilable(lacking)
            code = disk.read(key)
            if code is None:
                code = object_code(ir_text, target)
                _counts["compiled"] += 1
                disk.write(key, code)
            else:
                _counts["loaded"] += 1
            library = _libraries[key] = _Library(code)
        return library.addresses(functions)


def assembly(ir_text: str, target: Target) -> str:
    """Return a module as assembly for `target`, which need not run here, to be looked at."""
    with _parsed(ir_text, target) as (machine, module):
        text: str = machine.emit_assembly(module)
        return text


def object_code(ir_text: str, target: Target) -> bytes:
    """Return a module as an object file for `target`, which need not run here."""
    with _parsed(ir_text, target) as (machine, module):
        code: bytes = machine.emit_object(module)
        return code


def available() -> str | None:
    """Return None if kernels can be compiled and run here, else the reason; tried once.

    Raises:
        InputError: `RECUR_TARGET` is not what it must be.
    """
    return _available(os.environ.get("RECUR_TARGET"))


def cache_info() -> CacheInfo:
    """Return how many modules were compiled or came from disk in this process, and where objects are kept."""
    try:
        place, reason = str(disk.folder()), None
    except OSError as error:
        place, reason = None, f"{error}"
    return CacheInfo(_counts["compiled"], _counts["loaded"], place, reason)


@contextmanager
def quick() -> Iterator[None]:
    """Hold the garbage collector while code is made: it would walk all of torch, longer than the compiler takes."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Library:
    """A module in memory, as code."""

    _count = 0

    def __init__(self, code: bytes) -> None:
        self._code = code
        self._addresses: dict[str, int] = {}

    def addresses(self, functions: Sequence[str]) -> dict[str, int]:
        if new := [name for name in functions if name not in self._addresses]:
            self._addresses |= self._link(new)
        return {name: self._addresses[name] for name in functions}

    def _link(self, names: Sequence[str]) -> dict[str, int]:
        builder = llvm().JITLibraryBuilder().add_object_img(self._code).add_current_process()
        for name in names:
            builder.export_symbol(name)
        # a name is spent even where linking fails
        _Library._count += 1
        try:
            tracker = builder.link(_jit(), f"recur{_Library._count}")
        except RuntimeError as error:
            raise NotCompilable(f"compiled code cannot be loaded here: {error}") from error
        found = {name: tracker[name] for name in names}
        # without an owner it is never unloaded, not even when the interpreter ends: threads may still be in there
        tracker.detach()
        return found


def _key(ir_text: str, target: Target) -> bytes:
    binding = llvm()
    versions = (importlib.import_module("recur").__version__, _llvmlite_version(), binding.llvm_version_info, _OPTIONS)
    return hashlib.sha256(f"{versions}\0{target.triple}\0{target.cpu}\0{target.features}\0{ir_text}".encode()).digest()


@lru_cache
def _llvmlite_version() -> str:
    import llvmlite  # type: ignore[import-untyped,unused-ignore]

    return str(llvmlite.__version__)


@contextmanager
def _parsed(ir_text: str, target: Target) -> Iterator[tuple[Any, Any]]:
    with LOCK, quick():
        try:
            module = llvm().parse_assembly(ir_text)
            # what LLVM finds out later ends the process
            module.verify()
        except RuntimeError as error:
            raise RuntimeError(f"LLVM refuses this code, a defect of recur: {error}") from error
        with module:
            yield _machine(target), module


@lru_cache
def _machine(target: Target) -> Any:
    binding = llvm()
    try:
        family = binding.Target.from_triple(target.triple)
    except RuntimeError:
        # of another architecture
        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
        family = binding.Target.from_triple(target.triple)
    reloc = "static" if target.architecture == "x86_64" else "default"
    return family.create_target_machine(cpu=target.cpu, features=target.features, reloc=reloc, **_OPTIONS)


@lru_cache
def _jit() -> Any:
    # not with jitlink, which ends the process where memory may not be made executable
    jit = llvm().create_lljit_compiler(_machine(host()), use_jit_link=False, suppress_errors=True)
    # never disposed of, as above
    jit._owned = True
    return jit


@lru_cache
def _available(target: str | None) -> str | None:
    try:
        address = load(_TRIAL, ["trial"])["trial"]
    except (NotCompilable, RuntimeError) as error:
        return f"{error}"
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)
    return None if call(58) == 100 else "compiled code gives wrong results"


_TRIAL = """
define i64 @trial(i64 %x) {
  %y = add i64 %x, 42
  ret i64 %y
}
"""
