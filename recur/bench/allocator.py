"""The same measurement once more in a process whose malloc keeps its memory.

By default glibc's malloc asks the system for every large block and gives it back; each then costs a page fault per 4 KB
when it is first written, up to a quarter of a training step. Which of two layers is faster can hang on that alone.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from recur.bench.options import KernelOptions
from recur.tasks.options import flag

# malloc reads these when a process starts: no mapping of its own for large blocks, nothing given back
KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36), "MALLOC_TOP_PAD_": str(1 << 28)}


def allocator() -> str:
    """Return "kept" where this process runs with KEEPING, else "default"."""
    return "kept" if all(os.environ.get(name) == value for name, value in KEEPING.items()) else "default"


def measure_keeping(options: KernelOptions) -> dict[str, Any] | None:
    """Run `recur bench kernels` with these options and KEEPING; return what it would write with --json, if it did."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "recur.app.main", "bench", "kernels", *flags(options), "--json", str(path)]
        subprocess.run(command, env=os.environ | KEEPING, stdout=subprocess.DEVNULL, check=False)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def flags(options: KernelOptions) -> list[str]:
    """Return the flags that stand for these options, without what is written and the allocator."""
    found: list[str] = []
    for one in fields(options):
        value = getattr(options, one.name)
        if value == one.default or one.name in ("json", "picture", "allocator"):
            continue
        if value is True:
            found.append(flag(one.name))
        else:
            found += [flag(one.name), ",".join(value) if isinstance(value, tuple) else str(value)]
    return found
