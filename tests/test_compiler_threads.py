"""Compiled functions on threads: all parts are done, barriers hold; forks, other threads and the end break nothing."""

import ctypes
import os
import subprocess
import sys
import threading

import pytest

from recur.compiler import machine, team, threads
from recur.compiler.target import LEVELS, named

# args: rounds, then one i64 per thread
KERNELS = (
    threads.BARRIER_IR
    + """
; each thread writes 1 + its tid, the first also how many there are
define void @mark(ptr %args, i64 %tid, i64 %nt, ptr %team) {
  %first = getelementptr i64, ptr %args, i64 1
  %at = getelementptr i64, ptr %first, i64 %tid
  %value = add i64 %tid, 1
  store i64 %value, ptr %at
  store i64 %nt, ptr %args
  ret void
}

; in every round a thread adds to its own cell what it finds in the next one's: right only if nobody is ahead or behind
define void @chain(ptr %args, i64 %tid, i64 %nt, ptr %team) {
entry:
  %rounds = load i64, ptr %args
  %first = getelementptr i64, ptr %args, i64 1
  %own = getelementptr i64, ptr %first, i64 %tid
  %after = add i64 %tid, 1
  %other.tid = urem i64 %after, %nt
  %other = getelementptr i64, ptr %first, i64 %other.tid
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %a = load i64, ptr %own
  %b = load i64, ptr %other
  call void @recur_barrier(ptr %team, i64 %nt)
  %c = add i64 %a, %b
  store i64 %c, ptr %own
  call void @recur_barrier(ptr %team, i64 %nt)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %rounds
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""
)


def chained(rounds: int, nt: int) -> list[int]:
    values = [tid + 1 for tid in range(nt)]
    for _ in range(rounds):
        values = [(values[tid] + values[(tid + 1) % nt]) % 2**64 for tid in range(nt)]
    return values


def run(name: str, threads_: int, rounds: int = 0) -> list[int]:
    args = (ctypes.c_uint64 * 300)(rounds, *range(1, 300))
    threads.run(machine.load(KERNELS, [name])[name], ctypes.addressof(args), threads_)
    return list(args)


@pytest.fixture(params=["openmp", "workers"])
def pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> threads._Pool:
    """Run a test with the threads of torch and with our own."""
    pool = threads._Pool(openmp=request.param == "openmp")
    monkeypatch.setattr(threads, "_pool", pool)
    return pool


def python(script: str, *options: str) -> None:
    head = f"""
import ctypes, os, sys, threading, time
from recur.compiler import machine, threads
KERNELS = '''{KERNELS}'''
args = (ctypes.c_uint64 * 300)()
def run(name, nt, rounds=0):
    args[:] = [rounds, *range(1, 300)]
    threads.run(machine.load(KERNELS, [name])[name], ctypes.addressof(args), nt)
    return list(args)
"""
    result = subprocess.run(
        [sys.executable, *options, "-c", head + script], capture_output=True, text=True, timeout=120, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("nt", [1, 2, 3, 4, 7])
def test_every_part_is_done_once(nt: int):
    for _ in range(3):
        result = run("mark", nt)
        assert result[0] == nt
        assert result[1 : nt + 1] == [tid + 1 for tid in range(nt)]


def test_there_is_a_most(pool: threads._Pool):
    result = run("mark", 10)
    pool._limit = 10
    assert run("mark", 1000)[0] == 10
    assert result[0] == 10


@pytest.mark.usefixtures("pool")
def test_threads_that_the_system_refuses_are_done_without(monkeypatch: pytest.MonkeyPatch):
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    run("mark", 2)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert run("mark", 4)[0] == 2
    assert run("chain", 4, 10)[1:3] == chained(10, 2)


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize(("nt", "rounds"), [(1, 100), (2, 5000), (3, 300), (4, 300)])
def test_barriers_hold(nt: int, rounds: int):
    assert run("chain", nt, rounds)[1 : nt + 1] == chained(rounds, nt)


@pytest.mark.usefixtures("pool")
def test_barriers_hold_when_the_number_of_threads_changes():
    for nt in [2, 3, 2, 4, 1, 3, 4, 2, 2, 4]:
        for rounds in (1, 2, 7):
            assert run("chain", nt, rounds)[1 : nt + 1] == chained(rounds, nt)


@pytest.mark.usefixtures("pool")
def test_many_short_calls():
    function = machine.load(KERNELS, ["chain"])["chain"]
    args = (ctypes.c_uint64 * 3)(1, 1, 1)
    for _ in range(3000):
        threads.run(function, ctypes.addressof(args), 2)
    assert list(args) == [1, 2**3000 % 2**64, 2**3000 % 2**64]


def test_sleepers_are_woken(pool: threads._Pool):
    # nobody looks twice: all waiting is done asleep
    run("mark", 3)
    head = pool.team
    for looks in (16, 24):
        ctypes.c_int64.from_address(head + looks).value = 0
    for nt in (2, 3):
        assert run("chain", nt, 500)[1 : nt + 1] == chained(500, nt)


def test_a_busy_machine_is_left_to_the_workers(pool: threads._Pool):
    run("mark", 3)
    # as after a call in which two threads shared a processor
    hold = ctypes.c_int64.from_address(pool.team + 32)
    hold.value = 5
    for _ in range(5):
        assert run("chain", 3, 20)[1:4] == chained(20, 3)
    if not pool._openmp or threads._openmp() is None:
        assert hold.value == 5
    else:
        assert hold.value == 0


@pytest.mark.usefixtures("pool")
def test_threads_run_at_once():
    failures: list[int] = []
    start = threading.Barrier(3)

    def work() -> None:
        start.wait()
        for turn in range(150):
            result = run("mark", 2)
            nt = result[0]
            if nt not in (1, 2) or result[1:3] != [1, 2]:
                failures.append(turn)
            # how many threads there were can be told from the result
            if run("chain", 2, 5)[1:3] not in (chained(5, 2), [*chained(5, 1), 2]):
                failures.append(turn)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_the_child_of_a_fork_has_threads_of_its_own():
    python(
        """
import torch
before = run("chain", 3, 50)
for _ in range(3):
    child = os.fork()
    if child == 0:
        same = run("chain", 3, 50) == before and run("mark", 2)[0] == 2
        # and a child of the child
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if run("chain", 3, 50) == before else 1)
        os._exit(0 if same and os.waitpid(grandchild, 0)[1] == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
assert run("chain", 3, 50) == before
"""
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_while_the_team_is_at_work():
    python(
        """
import torch
stop = threading.Event()
def work():
    own = (ctypes.c_uint64 * 300)(2000)
    function = machine.load(KERNELS, ["chain"])["chain"]
    while not stop.is_set():
        threads.run(function, ctypes.addressof(own), 2)
thread = threading.Thread(target=work)
thread.start()
for _ in range(10):
    child = os.fork()
    if child == 0:
        os._exit(0 if run("mark", 2)[0] == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
"""
    )


# newer Pythons warn of every fork beside threads
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(method: str):
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    from torch.utils.data import DataLoader

    run("mark", 2)
    loader = DataLoader(Rows(), batch_size=2, num_workers=1, multiprocessing_context=method)
    assert [row for batch in loader for row in batch.tolist()] == [chained(5, 2)[0]] * 4


class Rows:
    """Each row is computed by a kernel."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return run("chain", 2, 5)[1]


@pytest.mark.parametrize("pause", ["0", "0.01"])
def test_the_end_of_the_interpreter(pause: str):
    # right after work, and when the workers sleep
    python(f"assert run('chain', 3, 20)\ntime.sleep({pause})\n", "-W", "error", "-X", "dev")


def test_the_end_of_the_interpreter_by_an_exit_beside_work():
    python(
        """
threading.Thread(target=lambda: [run("chain", 2, 100) for _ in range(10**9)], daemon=True).start()
time.sleep(0.05)
sys.exit(0)
""",
        "-W",
        "error",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_an_interrupt_comes_after_the_call():
    python(
        """
import signal
run("chain", 2, 1)
signal.setitimer(signal.ITIMER_REAL, 0.02)
signal.signal(signal.SIGALRM, signal.default_int_handler)
try:
    while True:
        result = run("chain", 2, 200)
except KeyboardInterrupt:
    pass
signal.setitimer(signal.ITIMER_REAL, 0)
assert run("mark", 2)[0] == 2
assert run("chain", 2, 200)[1:3] == result[1:3]
"""
    )


def test_importing_it_starts_nothing():
    python("assert threading.active_count() == 1 and threads._pool.size == 0")


@pytest.mark.parametrize("level", list(LEVELS))
@pytest.mark.parametrize("system", ["x86_64-unknown-linux-gnu", "x86_64-apple-darwin", "x86_64-pc-windows-msvc"])
def test_it_can_be_compiled_for_every_system(level: str, system: str):
    import dataclasses

    target = named(level)
    triple = system.replace("x86_64", target.architecture)
    target = dataclasses.replace(target, triple=triple)
    text = team.team_ir(target)
    assert text is not None
    assembly = machine.assembly(text, target)
    for name in team.FUNCTIONS:
        assert name in assembly
    # a look costs one pause
    assert ("pause" if target.architecture == "x86_64" else "isb") in assembly


def test_a_system_without_a_way_to_sleep():
    import dataclasses

    assert team.team_ir(dataclasses.replace(named("x86-64-v3"), triple="x86_64-unknown-freebsd")) is None
