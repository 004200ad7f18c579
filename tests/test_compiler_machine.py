"""Machine code: what is compiled runs; what is found on disk runs only if it is whole, ours and for this processor."""

import ctypes
import dataclasses
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recur.compiler import disk, machine, target
from recur.errors import InputError

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights for files")
# every test has a folder of its own
pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "objects"
    monkeypatch.setenv("RECUR_CACHE", str(path))
    monkeypatch.delenv("RECUR_TARGET", raising=False)
    forget()
    return path


def adds(number: int) -> str:
    return f"define i64 @f(i64 %x) {{\n  %y = add i64 %x, {number}\n  ret i64 %y\n}}\n"


def call(text: str, x: int = 0) -> int:
    function: Callable[[int], int] = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(machine.load(text, ["f"])["f"])
    return function(x)


def forget() -> None:
    """Be like a new process: what is in memory is not found again."""
    machine._libraries.clear()


def counted(action: Callable[[], object]) -> tuple[int, int]:
    before = machine.cache_info()
    action()
    after = machine.cache_info()
    return after.compiled - before.compiled, after.loaded - before.loaded


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a new interpreter in which every warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_is_available_here():
    assert machine.available() is None


def test_the_same_text_is_compiled_once():
    first = machine.load(adds(1), ["f"])
    assert counted(lambda: machine.load(adds(1), ["f"])) == (0, 0)
    assert machine.load(adds(1), ["f"]) == first


def test_a_new_process_takes_it_from_disk():
    assert counted(lambda: call(adds(2))) == (1, 0)
    forget()
    assert counted(lambda: call(adds(2))) == (0, 1)
    assert call(adds(2), 40) == 42


def test_a_changed_text_gives_new_code():
    assert call(adds(3), 1) == 4
    assert call(adds(4), 1) == 5


def test_functions_may_be_asked_for_one_by_one():
    text = adds(1) + adds(2).replace("@f", "@g")
    f = machine.load(text, ["f"])["f"]
    both = machine.load(text, ["g", "f"])
    assert both["f"] == f
    assert ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(both["g"])(1) == 3


def damage_last_byte(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:20],
        damage_last_byte,
        lambda content: content[:30] + b"x" + content[31:],
        lambda content: b"R" + content[1:],
        lambda content: content + b"\0",
        lambda content: os.urandom(len(content)),
    ],
)
def test_a_damaged_file_is_not_run(folder: Path, damage: Callable[[bytes], bytes]):
    call(adds(5))
    path = only(folder)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    forget()
    assert counted(lambda: call(adds(5))) == (1, 0)
    assert call(adds(5), 1) == 6
    assert path.read_bytes() == whole


def test_a_file_under_another_name_is_not_run(folder: Path):
    call(adds(6))
    first = only(folder)
    call(adds(7))
    (second,) = set(folder.iterdir()) - {first}
    first.rename(folder / "between")
    second.rename(first)
    (folder / "between").rename(second)
    forget()
    assert counted(lambda: [call(adds(6)), call(adds(7))]) == (2, 0)
    assert (call(adds(6), 1), call(adds(7), 1)) == (7, 8)


def test_the_key_holds_text_processor_features_and_versions(monkeypatch: pytest.MonkeyPatch):
    own = target.host()
    changed = [
        dataclasses.replace(own, cpu="other"),
        dataclasses.replace(own, features=own.features + ",+x"),
        dataclasses.replace(own, triple="other"),
    ]
    keys = {machine._key("a", each) for each in [own, *changed]}
    keys.add(machine._key("b", own))
    monkeypatch.setattr("recur.__version__", "0.0.0")
    keys.add(machine._key("a", own))
    assert len(keys) == 6


@POSIX
def test_what_is_written_is_private(folder: Path):
    call(adds(8))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(only(folder).stat().st_mode) == 0o600


@POSIX
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_folder_that_others_may_write_is_refused(folder: Path, mode: int):
    call(adds(9))
    folder.chmod(mode)
    info = machine.cache_info()
    assert info.folder is None
    assert "may be written by other users" in (info.reason or "")
    forget()
    assert counted(lambda: call(adds(9))) == (1, 0)


@POSIX
def test_a_file_that_others_may_write_is_refused(folder: Path):
    call(adds(10))
    only(folder).chmod(0o666)
    forget()
    assert counted(lambda: call(adds(10))) == (1, 0)
    # replaced by one of its own
    assert stat.S_IMODE(only(folder).stat().st_mode) == 0o600


@POSIX
def test_a_link_to_a_file_is_refused(folder: Path, tmp_path: Path):
    call(adds(11))
    path = only(folder)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    forget()
    assert counted(lambda: call(adds(11))) == (1, 0)


@POSIX
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_belongs_to_another_user_is_refused(folder: Path, what: str):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    call(adds(12))
    os.chown(folder if what == "folder" else only(folder), 12345, -1)
    forget()
    assert counted(lambda: call(adds(12))) == (1, 0)


@pytest.mark.parametrize("choice", ["", "off"])
def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, choice: str):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECUR_CACHE", choice)
    assert call(adds(13), 1) == 14
    forget()
    assert counted(lambda: call(adds(13))) == (1, 0)
    assert machine.cache_info().reason == "RECUR_CACHE switches it off"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_done_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("RECUR_CACHE", str(tmp_path / "file" / "below"))
    assert call(adds(14), 1) == 15
    assert machine.cache_info().folder is None


@POSIX
def test_a_full_disk_is_done_without(monkeypatch: pytest.MonkeyPatch, folder: Path):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert call(adds(15), 1) == 16
    # nothing is left lying there
    assert not list(folder.iterdir())


@POSIX
def test_without_a_home_there_is_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("RECUR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    assert "no home folder" in (machine.cache_info().reason or "")


@pytest.mark.skipif(sys.platform != "linux", reason="where Linux keeps caches")
def test_the_folder_is_where_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("RECUR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine.cache_info().folder == str(tmp_path / "recur")


def test_the_oldest_go_when_there_is_too_much(monkeypatch: pytest.MonkeyPatch, folder: Path):
    for number in (16, 17, 18):
        call(adds(number))
    old, new, newest = sorted(folder.iterdir())
    left_behind = folder / "killed.tmp"
    left_behind.touch()
    days = 86400
    for age, path in [(9, old), (2, new), (0, newest), (5, left_behind)]:
        os.utime(path, (time.time() - age * days,) * 2)
    monkeypatch.setattr(disk, "MAXIMUM_BYTES", new.stat().st_size + newest.stat().st_size)
    disk._tidy(folder)
    assert set(folder.iterdir()) == {new, newest}


def test_what_is_used_counts_as_new(folder: Path):
    call(adds(19))
    path = only(folder)
    os.utime(path, (1e9, 1e9))
    forget()
    assert counted(lambda: call(adds(19))) == (0, 1)
    assert path.stat().st_mtime > 1e9 + 1


def test_text_that_llvm_refuses():
    with pytest.raises(RuntimeError, match="LLVM refuses this code"):
        machine.load("define void @f( {", ["f"])
    # parsed, but not valid: a value that does not reach its use
    wrong = (
        "define i64 @f(i1 %c) {\n  br i1 %c, label %a, label %b\n"
        "a:\n  %x = add i64 1, 1\n  br label %b\nb:\n  ret i64 %x\n}\n"
    )
    with pytest.raises(RuntimeError, match="LLVM refuses this code"):
        machine.load(wrong, ["f"])


def test_a_function_that_is_not_there():
    with pytest.raises(machine.NotCompilable, match="absent"):
        machine.load(adds(20), ["absent"])
    assert call(adds(20), 1) == 21


def test_threads_load_at_once():
    results: list[int] = []
    start = threading.Barrier(4)

    def work(thread: int) -> None:
        start.wait()
        results.extend(call(adds(30 + number % 3), 100 * thread) for number in range(6))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    before = machine.cache_info().compiled
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(100 * thread + 30 + number % 3 for thread in range(4) for number in range(6))
    assert machine.cache_info().compiled - before == 3


def test_processes_compile_at_once(folder: Path):
    script = (
        "import ctypes\nfrom recur.compiler import machine\n"
        "for n in range(8):\n"
        "    text = f'define i64 @f(i64 %x) {{\\n  %y = add i64 %x, {n}\\n  ret i64 %y\\n}}\\n'\n"
        "    f = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(machine.load(text, ['f'])['f'])\n"
        "    assert f(1) == n + 1\n"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
    assert len(list(folder.iterdir())) == 8
    assert counted(lambda: [call(adds(n)) for n in range(8)])[0] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_the_child_of_a_fork_runs_and_compiles():
    # the lock is held by a thread that compiles while the process is forked
    script = """
import ctypes, os, threading
from recur.compiler import machine

def adds(n):
    return f"define i64 @f(i64 %x) {{\\n  %y = add i64 %x, {n}\\n  ret i64 %y\\n}}\\n"

def function(n):
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(machine.load(adds(n), ["f"])["f"])

kept, stop = function(1), threading.Event()

def compile_on():
    n = 100
    while not stop.is_set():
        function(n := n + 1)

thread = threading.Thread(target=compile_on)
thread.start()
for n in range(20):
    child = os.fork()
    if child == 0:
        os._exit(0 if (kept(1), function(2)(1), function(1000 + n)(1)) == (2, 3, 1001 + n) else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
"""
    # Python itself warns of forks beside threads
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="Linux can forbid it")
def test_where_code_may_not_be_made_it_says_so():
    script = """
import ctypes, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE: what was writable never becomes executable
    sys.exit(77)
from recur.compiler import machine
assert "compiled code cannot be loaded here" in machine.available(), machine.available()
"""
    result = python(script)
    if result.returncode == 77:
        pytest.skip("this kernel cannot forbid it")
    assert (result.returncode, result.stderr) == (0, "")


def test_without_llvmlite_it_says_so():
    script = """
import sys
sys.modules["llvmlite"] = None
from recur.compiler import machine
assert "pip install llvmlite" in machine.available(), machine.available()
"""
    result = python(script)
    assert (result.returncode, result.stderr) == (0, "")


def test_importing_it_is_cheap():
    result = python("import sys, recur.compiler.machine, recur.compiler.threads; assert 'llvmlite' not in sys.modules")
    assert (result.returncode, result.stderr) == (0, "")


def test_this_processor():
    own = target.host()
    assert own.lanes(torch.float32) == own.vector_bytes // 4
    assert own.lanes(torch.float64) == own.vector_bytes // 8
    assert own.has_bf16 == ("+avx512bf16" in own.features)
    assert target.host() is own


@pytest.mark.parametrize(
    ("name", "vector_bytes", "registers"),
    [("x86-64-v2", 16, 16), ("x86-64-v3", 32, 16), ("x86-64-v4", 64, 32), ("aarch64", 16, 32)],
)
def test_levels(name: str, vector_bytes: int, registers: int):
    level = target.named(name)
    assert (level.vector_bytes, level.registers) == (vector_bytes, registers)


# y += a * x on one whole vector
VECTOR = """
declare <N x float> @llvm.fmuladd.vNf32(<N x float>, <N x float>, <N x float>)
define void @f(ptr %x, ptr %y, <N x float> %a) {
  %u = load <N x float>, ptr %x, align 4
  %v = load <N x float>, ptr %y, align 4
  %w = call <N x float> @llvm.fmuladd.vNf32(<N x float> %a, <N x float> %u, <N x float> %v)
  store <N x float> %w, ptr %y, align 4
  ret void
}
"""


@pytest.mark.parametrize(
    ("name", "instruction", "register"),
    [
        ("x86-64-v2", "mulps", "xmm"),
        ("x86-64-v3", "vfmadd", "ymm"),
        ("x86-64-v4", "vfmadd", "zmm"),
        ("aarch64", "fmla", ".4s"),
    ],
)
def test_every_level_is_emitted_with_whole_vectors(name: str, instruction: str, register: str):
    level = target.named(name)
    text = VECTOR.replace("N", f"{level.lanes(torch.float32)}")
    assembly = machine.assembly(text, level)
    assert instruction in assembly
    assert register in assembly
    assert machine.object_code(text, level).startswith(b"\x7fELF") or sys.platform != "linux"


@pytest.mark.parametrize("cpu", ["x86-64-v4", "skylake-avx512", "znver4"])
def test_no_processor_is_kept_to_half_vectors(cpu: str):
    level = dataclasses.replace(target.named("x86-64-v4"), triple="x86_64-unknown-linux-gnu", cpu=cpu)
    text = VECTOR.replace("N", "16")
    # LLVM asks this attribute where it is free to choose
    assert "ymm" not in machine.assembly(text, level)
    copy = "define void @f(ptr %a, ptr %b) {\n  call void @llvm.memcpy.p0.p0.i64(ptr %a, ptr %b, i64 64, i1 false)\n"
    copy += "  ret void\n}\ndeclare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)\n"
    assert "zmm" in machine.assembly(copy, level)


def test_code_for_another_processor_is_not_loaded():
    other = "x86-64-v2" if target.host().architecture == "aarch64" else "aarch64"
    with pytest.raises(machine.NotCompilable, match="does not run on"):
        machine.load(adds(40), ["f"], target.named(other))


def test_a_level_that_this_processor_lacks_is_not_loaded(monkeypatch: pytest.MonkeyPatch):
    if target.host().architecture != "x86_64":
        pytest.skip("levels are those of x86-64")
    monkeypatch.setattr(target, "_features", lambda: dict.fromkeys(target.LEVELS["x86-64-v3"], True))
    assert target.missing(target.named("x86-64-v3")) is None
    with pytest.raises(machine.NotCompilable, match="lacks avx512bw, avx512cd"):
        machine.load(adds(41), ["f"], target.named("x86-64-v4"))


def test_the_environment_lowers_the_target(monkeypatch: pytest.MonkeyPatch):
    if target.native().architecture != "x86_64":
        pytest.skip("levels are those of x86-64")
    monkeypatch.setenv("RECUR_TARGET", "x86-64-v2")
    assert target.host() == target.named("x86-64-v2")
    assert call(adds(42), 1) == 43
    assert machine.available() is None


@pytest.mark.parametrize("name", ["x86-64-v9", "haswell", "aarch64 "])
def test_an_unknown_target(monkeypatch: pytest.MonkeyPatch, name: str):
    with pytest.raises(InputError, match="must be one of x86-64-v2, x86-64-v3, x86-64-v4, aarch64, got"):
        target.named(name)
    monkeypatch.setenv("RECUR_TARGET", name)
    with pytest.raises(InputError, match="RECUR_TARGET must be host or one of"):
        target.host()


def test_the_collector_is_held_and_released():
    import gc

    with machine.quick():
        assert not gc.isenabled()
        with machine.quick():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
