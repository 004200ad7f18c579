"""A compiled function on several threads, which meet at barriers, without the GIL.

Every kernel is `void f(ptr args, i64 tid, i64 nt, ptr team)` and gives the same result for every number of threads.

Whose threads? Where torch has those of libgomp (Linux), these: they go on spinning for some 8 ms after an operation of
torch, and others would have to share the processors with them. Elsewhere, in the child of a fork, where libgomp hangs,
and on a busy machine, where that spinning hurts, workers of our own: Python threads that never come back, but sit in
compiled code without the GIL and wait for work. Whoever waits spins, and soon sleeps.
"""

import ctypes
import os
import sys
import threading
import time
from typing import Any

from recur.compiler import machine
from recur.compiler.target import NotCompilable, host
from recur.compiler.team import BYTES_OF_MEMBER, BYTES_OF_TEAM, FUNCTIONS, team_ir

MAXIMUM_THREADS = 256

BARRIER_IR = """
define internal void @recur_barrier(ptr %team, i64 %nt) nounwind {
  %alone = icmp eq i64 %nt, 1
  br i1 %alone, label %done, label %meet
meet:
  %barrier = load ptr, ptr %team
  call void %barrier(ptr %team, i64 %nt)
  br label %done
done:
  ret void
}
"""
"""To be part of a kernel's module: `call void @recur_barrier(ptr %team, i64 %nt)`, and all nt threads meet.

What a thread wrote before is seen by all of them after. With one thread it costs nothing and `team` may be null.
"""

# a worker without work leaves its processor soon. In a call, waiting longer than it takes to wake a thread keeps two
# threads from waking each other at every barrier
_IDLE_SECONDS = 50e-6
_CALL_SECONDS = 200e-6


def run(function: int, args: int, threads: int) -> None:
    """Call `function(args, tid, nt, team)` for every tid below nt, all at the same time; return when all are done.

    nt is `threads`, or less: 1 where another Python thread is in here with several, and no more than the system and
    `MAXIMUM_THREADS` allow.

    Args:
        function: address of a kernel, from `machine.load`.
        args: the address that it is given.
        threads: how many threads, 1 or more.

    Raises:
        NotCompilable: machine code cannot be made or loaded here.
    """
    pool = _pool
    if threads > pool.size:
        threads = pool.grow(threads)
    pool.dispatch(pool.team, function, args, threads)


class _Pool:
    """The threads of this process, the caller's counted: none before the first `run`."""

    def __init__(self, openmp: bool = True) -> None:
        self.size = 0
        self.team = 0
        self.dispatch: Any = None
        self._openmp = openmp
        self._worker: Any = None
        self._limit = MAXIMUM_THREADS
        self._lock = threading.Lock()

    def grow(self, threads: int) -> int:
        """Start workers for `threads` threads, and return how many there can be, at most `threads`."""
        with self._lock:
            if self.size == 0:
                self._open()
            while self.size < min(threads, self._limit):
                member = self.team + BYTES_OF_TEAM + self.size * BYTES_OF_MEMBER
                worker = threading.Thread(target=self._worker, args=(member,), name=f"recur-{self.size}", daemon=True)
                try:
                    worker.start()
                except RuntimeError:
                    # the system allows no more, or the interpreter is ending
                    self._limit = self.size
                    break
                self.size += 1
            return min(threads, self.size)

    def _open(self) -> None:
        ir = team_ir(host())
        if ir is None:
            raise NotCompilable(f"threads cannot wait on {host().triple}")
        prepare, dispatch, worker, pause = machine.load(ir, FUNCTIONS).values()
        memory = ctypes.create_string_buffer(BYTES_OF_TEAM + MAXIMUM_THREADS * BYTES_OF_MEMBER + 128)
        # never freed: when the interpreter ends, the workers are still in there
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))
        self.team = -(-ctypes.addressof(memory) // 128) * 128
        looks = _pauses_per_second(pause)
        openmp = (_openmp() if self._openmp else None) or [0, 0, 0, 0]
        _function(prepare, "pnnnpppp")(
            self.team, MAXIMUM_THREADS, int(looks * _IDLE_SECONDS), int(looks * _CALL_SECONDS), *openmp
        )
        self._worker = _function(worker, "p")
        self.dispatch = _function(dispatch, "pppn")
        self.size = 1


_pool = _Pool()


def _forked() -> None:
    global _pool
    # the child of a fork has one thread, and libgomp would wait for those that it had
    _pool = _Pool(openmp=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _openmp() -> list[int] | None:
    """Return the addresses of the functions of torch's own libgomp that `team` needs, None where it has none."""
    torch = sys.modules.get("torch")
    if torch is None or sys.platform != "linux":
        return None
    names = ["GOMP_parallel", "omp_get_num_threads", "omp_get_thread_num", "omp_get_max_threads"]
    try:
        # loaded already; a name is looked for in it and in what it was linked with
        library = ctypes.CDLL(
            os.path.join(os.path.dirname(torch.__file__ or ""), "lib", "libtorch_cpu.so"), os.RTLD_NOLOAD
        )
        return [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names]
    except (OSError, AttributeError):
        return None


def _pauses_per_second(pause: int) -> float:
    """Measure it: a pause takes 10 to 140 cycles, by processor."""
    call = _function(pause, "n")
    fastest = 1.0
    for _ in range(3):
        start = time.perf_counter()
        call(500)
        fastest = min(fastest, time.perf_counter() - start)
    return 500 / fastest


def _function(address: int, parameters: str) -> Any:
    types = {"p": ctypes.c_void_p, "n": ctypes.c_int64}
    return ctypes.CFUNCTYPE(None, *(types[letter] for letter in parameters))(address)
