"""Which processor machine code is made for: this one, or a named level, and the vectors and registers it has.

`RECUR_TARGET` (`x86-64-v2`, `x86-64-v3`, `x86-64-v4`, `aarch64`) lowers what `host` says, so that the kernels of older
processors can be tested on a newer one.
"""

import importlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from recur.errors import InputError, RecurError

if TYPE_CHECKING:
    import torch


class NotCompilable(RecurError):
    """Machine code cannot be made or loaded here; the message says why. The reference computes the same, slower."""


@dataclass(frozen=True)
class Target:
    """A processor as LLVM knows it, and what the layout of a kernel follows from."""

    triple: str
    """Architecture, vendor and system, such as `x86_64-unknown-linux-gnu`."""
    cpu: str
    """LLVM's name for the processor."""
    features: str
    """Instruction sets switched on and off, such as `+avx2,-avx512f`."""
    vector_bytes: int
    """Bytes of a vector register: 64 with AVX-512, 32 with AVX2, else 16."""
    registers: int
    """How many vector registers there are."""

    def lanes(self, dtype: "torch.dtype") -> int:
        """Return how many numbers of `dtype` a vector register holds."""
        return self.vector_bytes // dtype.itemsize

    @property
    def architecture(self) -> str:
        """`x86_64` or `aarch64`."""
        return "aarch64" if self.triple.startswith(("aarch64", "arm64")) else self.triple.split("-")[0]

    @property
    def has_bf16(self) -> bool:
        """Whether there are instructions for dot products of bfloat16 (AVX512_BF16)."""
        return "+avx512bf16" in self.features.split(",")


# what a level needs of a processor (x86-64 psABI), in LLVM's names
_V2 = frozenset("cx16 sahf popcnt sse3 ssse3 sse4.1 sse4.2".split())
_V3 = _V2 | frozenset("avx avx2 bmi bmi2 f16c fma lzcnt movbe".split())
_V4 = _V3 | frozenset("avx512f avx512bw avx512cd avx512dq avx512vl".split())
LEVELS = {"x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4, "aarch64": frozenset[str]()}
# on some processors LLVM prefers half vectors where it has the choice; kernels are laid out for whole ones
_WHOLE_VECTORS = "-prefer-256-bit"


# held by the thread that is in llvmlite, and a fork waits for it: the child must not inherit an import or a compiler
# that a thread which it does not have has left in the middle
LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _once(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Hold the lock, and remember the result."""
    remembered = lru_cache(function)

    @wraps(function)
    def held(*args: _P.args, **keywords: _P.kwargs) -> _R:
        with LOCK:
            # mypy: lru_cache forgets the parameters
            return remembered(*args, **keywords)  # type: ignore[arg-type]

    return held


def host() -> Target:
    """Return the processor that this process runs on, lowered to `RECUR_TARGET` where that is set.

    Raises:
        NotCompilable: llvmlite is missing, or kernels are not made for processors of this kind.
        InputError: `RECUR_TARGET` is no level, or one that this processor does not reach.
    """
    return _host(os.environ.get("RECUR_TARGET", ""))


def named(name: str) -> Target:
    """Return a level: `x86-64-v2`, `x86-64-v3` (AVX2), `x86-64-v4` (AVX-512) or `aarch64`, for this system or Linux."""
    if name not in LEVELS:
        raise InputError(f"a target must be one of {', '.join(LEVELS)}, got {name!r}")
    architecture = "aarch64" if name == "aarch64" else "x86_64"
    triple = _process_triple()
    if Target(triple, "", "", 16, 16).architecture != architecture:
        triple = f"{architecture}-unknown-linux-gnu"
    if architecture == "aarch64":
        return Target(triple, "generic", "+neon", 16, 32)
    vector_bytes, registers = _x86_vectors(LEVELS[name])
    return Target(triple, name, _WHOLE_VECTORS if vector_bytes == 64 else "", vector_bytes, registers)


def missing(target: Target) -> str | None:
    """Return what this processor lacks to run code made for `target`, or None where it runs."""
    own = native()
    if target == own:
        return None
    level = "aarch64" if target.architecture == "aarch64" else target.cpu
    if target.triple != own.triple or level not in LEVELS:
        return f"code for {target.triple} ({target.cpu}) does not run on {own.triple} ({own.cpu})"
    features = {feature for feature, there in _features().items() if there}
    lacking = sorted(LEVELS[level] - features)
    return f"this processor ({own.cpu}) lacks {', '.join(lacking)}" if lacking else None


@_once
def native() -> Target:
    """Return this processor with all that it has, whatever `RECUR_TARGET` says."""
    binding = llvm()
    triple = _process_triple()
    features, cpu = _features(), binding.get_host_cpu_name()
    text = features.flatten()
    target = Target(triple, cpu, text, 16, 32)
    if target.architecture == "x86_64":
        vector_bytes, registers = _x86_vectors({feature for feature, there in features.items() if there})
        if vector_bytes == 64:
            text = f"{text},{_WHOLE_VECTORS}"
        return Target(triple, cpu, text, vector_bytes, registers)
    if target.architecture == "aarch64":
        return target
    raise NotCompilable(f"kernels are made for x86-64 and ARM64 processors, this one is {target.architecture}")


@_once
def llvm() -> Any:
    """Import llvmlite with the code generator of this processor; NotCompilable where it is missing.

    llvmlite has no types.
    """
    try:
        binding = importlib.import_module("llvmlite.binding")
    except (ImportError, OSError) as error:
        raise NotCompilable(f"llvmlite cannot be imported ({error}): pip install llvmlite") from error
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


@_once
def _host(name: str) -> Target:
    if name in ("", "host"):
        return native()
    if name not in LEVELS:
        raise InputError(f"RECUR_TARGET must be host or one of {', '.join(LEVELS)}, got {name!r}")
    target = named(name)
    if lacking := missing(target):
        raise InputError(f"RECUR_TARGET must be a level that this processor reaches, got {name!r}: {lacking}")
    return target


@_once
def _features() -> Any:
    return llvm().get_host_cpu_features()


@_once
def _process_triple() -> str:
    triple: str = llvm().get_process_triple()
    return triple


def _x86_vectors(features: set[str] | frozenset[str]) -> tuple[int, int]:
    if features >= _V4:
        return 64, 32
    # AVX alone has neither whole integers nor FMA
    return (32, 16) if {"avx2", "fma"} <= features else (16, 16)
