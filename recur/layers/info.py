"""`recur.backend_info()`: what runs the recurrences on this machine, and why."""

import os
from dataclasses import dataclass
from importlib.metadata import version

import torch

from recur.compiler import machine
from recur.compiler.target import NotCompilable, Target, host, llvm
from recur.errors import InputError
from recur.scan import BACKENDS


@dataclass(frozen=True)
class BackendInfo:
    """What `backend_info` found; printed, it is a line for each."""

    backend: str
    """What "auto" takes for float32 and float64 on a CPU: "cpu", or what RECUR_BACKEND says. "torch", where nothing can
    be compiled: torch's kernels for the cells that they know, the reference for the others."""
    reason: str
    """Why."""
    environment: dict[str, str]
    """Those of RECUR_BACKEND, RECUR_TARGET and RECUR_CACHE that are set."""
    target: Target | None
    """The processor that kernels are made for; None where none can be made."""
    threads: int
    """Threads of torch, which the kernels run on as well."""
    cache: machine.CacheInfo
    """Where compiled code is kept, and how much of it was compiled or found there by this process."""
    versions: dict[str, str]
    """Of torch, and of llvmlite and LLVM where they are there."""
    cuda: str | None
    """The name of the first CUDA device, where every cell runs on torch's kernels or the reference; None without."""

    def __str__(self) -> str:
        chosen = ", ".join(f"{name}={value}" for name, value in self.environment.items())
        lines = {"backend": f"{self.backend}: {self.reason}", "environment": chosen or "nothing set"}
        if self.target is not None:
            target = self.target
            registers = f"{target.registers} registers of {target.vector_bytes} bytes"
            lines["target"] = f"{target.cpu} ({target.architecture}), {registers}"
        lines["threads"] = f"{self.threads}"
        done = f"{self.cache.compiled} compiled, {self.cache.loaded} found there by this process"
        lines["cache"] = f"{self.cache.folder or f'none, {self.cache.reason}'}; {done}"
        lines["versions"] = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        lines["CUDA"] = self.cuda or "none"
        return "\n".join(f"{name:<12} {text}" for name, text in lines.items())

    __repr__ = __str__


def backend_info() -> BackendInfo:
    """Return what runs the recurrences here: backend, processor, threads, cache and versions.

    Raises:
        InputError: RECUR_BACKEND or RECUR_TARGET is not what it must be.

    >>> print(backend_info())  # doctest: +SKIP
    backend      cpu: kernels can be compiled here
    environment  nothing set
    target       znver4 (x86_64), 32 registers of 64 bytes
    threads      2
    cache        /home/me/.cache/recur; 0 compiled, 3 found there by this process
    versions     torch 2.9.1, llvmlite 0.50.0, LLVM 22.1.0
    CUDA         none
    """
    lacking = machine.available()
    backend, reason = ("cpu", "kernels can be compiled here") if lacking is None else ("torch", lacking)
    asked = os.environ.get("RECUR_BACKEND") or "auto"
    if asked not in BACKENDS:
        raise InputError(f"RECUR_BACKEND must be one of {', '.join(BACKENDS)}, found {asked!r}; unset it or change it")
    if asked != "auto":
        backend, reason = asked, "RECUR_BACKEND says so" + f", but {lacking}" * (asked == "cpu" and lacking is not None)
    versions = {"torch": str(torch.__version__)}
    target = None
    try:
        target = host()
        versions |= {"llvmlite": version("llvmlite"), "LLVM": ".".join(map(str, llvm().llvm_version_info))}
    except NotCompilable:
        pass
    names = ("RECUR_BACKEND", "RECUR_TARGET", "RECUR_CACHE")
    return BackendInfo(
        backend=backend,
        reason=reason,
        environment={name: os.environ[name] for name in names if os.environ.get(name)},
        target=target,
        threads=torch.get_num_threads(),
        cache=machine.cache_info(),
        versions=versions,
        cuda=torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    )
