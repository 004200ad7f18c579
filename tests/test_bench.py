"""`recur bench kernels`: the limit by hand, a wrong library is refused, and what comes out is complete. No speeds."""

import json
import os
import subprocess
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from recur import InputError, MissingExtra
from recur.app.main import main
from recur.bench import allocator, clock, kernels
from recur.bench import peers as peers_module
from recur.bench.clock import Round, Timing, measure
from recur.bench.limit import Count, Limit, Machine, cache_sizes, limit
from recur.bench.options import SHAPES, KernelOptions, Point, Shape, points
from recur.bench.peers import Peer, peers
from recur.bench.picture import picture
from recur.bench.problem import Problem, WrongResult, load_cell
from recur.bench.record import Measured, Record
from recur.bench.show import digits, table
from recur.compiler import machine

torch.set_num_threads(1)

TINY = "--shapes 3x2x4x5 --threads 1 --seconds 0.01 --rounds 3".split()
ONE = KernelOptions(
    cells=("gru",),
    shapes=("3x2x4x5",),
    threads=("1",),
    modes=("forward",),
    peers=("torch",),
    seconds=0.01,
    rounds=3,
)
SMALL = Shape(6, 3, 4, 5)


class Slow:
    """A machine of 1000 multiplications per second and thread, that reads 1000 bytes per second and thread."""

    def peak(self, threads):
        return 1000.0 * threads

    def read(self, size, threads):
        return 1000.0

    def level(self, size, threads):
        return "L2"


def test_the_limit_of_a_batch_is_its_multiplications():
    # 2 * T B * G H * I for the input, 2 * B * G H * H for each step
    count = Count.of(load_cell("lstm"), Shape(10, 32, 3, 2), "forward")
    assert (count.input, count.step, count.bytes) == (2 * 10 * 32 * 8 * 3, 2 * 32 * 8 * 2, 4 * 8 * 2)
    forward = 1e3 * (count.input + 10 * count.step) / 1000
    assert limit(count, "forward", 1, Slow()) == Limit(forward, "fma")
    assert limit(count, "forward", 2, Slow()) == Limit(forward / 2, "fma")
    # the backward pass: the recurrence again, dx and two matrices' gradients
    assert limit(count, "train", 1, Slow()) == Limit(pytest.approx(3 * forward), "fma")


def test_the_limit_of_one_row_is_reading_the_weights():
    count = Count.of(load_cell("gru"), Shape(10, 1, 3, 2), "forward")
    assert (count.input, count.step, count.bytes) == (360, 24, 48)
    assert limit(count, "forward", 1, Slow()) == Limit(pytest.approx(360 + 10 * 48), "L2")
    # with two threads each reads half, and is twice as fast at that and at multiplying
    assert limit(count, "forward", 2, Slow()) == Limit(pytest.approx((360 + 10 * 48) / 2), "L2")
    # the gradient of the recurrent matrix needs no weights
    assert limit(count, "train", 1, Slow()) == Limit(pytest.approx(3 * 360 + 2 * 10 * 48 + 10 * 24), "L2")


def test_a_stream_reads_both_matrices_in_every_step():
    count = Count.of(load_cell("rnn"), Shape(10, 1, 3, 2), "stream")
    assert (count.input, count.step, count.bytes) == (0, 2 * 2 * (3 + 2), 4 * 2 * (3 + 2))
    assert limit(count, "stream", 1, Slow()).ms == pytest.approx(10 * 40)
    assert count.total == Count.of(load_cell("rnn"), Shape(10, 1, 3, 2), "forward").total


def test_a_cell_without_recurrent_matrix_reads_none():
    count = Count.of(load_cell("mingru"), Shape(10, 4, 3, 2), "forward")
    assert (count.step, count.share(2)) == (0, 0)
    assert limit(count, "forward", 2, Slow()).by == "fma"


def test_caches_are_read_from_the_system(tmp_path):
    for i, (level, kind, size) in enumerate([(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "1024K")]):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    assert cache_sizes(tmp_path) == {"L1": 48 << 10, "L2": 1 << 20}
    assert set(cache_sizes(tmp_path / "none")) == {"L1", "L2", "L3"}


@pytest.mark.skipif(machine.available() is not None, reason="no machine code here")
def test_the_machines_speeds_are_measured_and_only_get_better(monkeypatch):
    monkeypatch.setattr("recur.bench.limit.RUN_SECONDS", 1e-4)
    here = Machine()
    peak, speed = here.peak(2), here.read(1 << 14, 2)
    assert peak > 1e8
    assert speed > 1e8
    here.again(1 << 14, 2)
    assert here.peak(2) >= peak
    assert here.read(1 << 14, 2) >= speed
    here.caches = {"L1": 1000, "L2": 5000, "L3": 8000}
    assert [here.level(size, 2) for size in (1000, 1001, 5000, 5001)] == ["L1", "L2", "L2", "memory"]
    assert here.level(5001, 1) == "L3"


def test_points_are_all_that_was_asked_for_streams_for_one_row():
    options = KernelOptions(cells=("gru", "gru"), shapes=("3x2x4x5", "7x1x4x5"), threads=("1", "all"))
    found = points(options, all_threads=2)
    assert [str(point) for point in found[:5]] == [
        "gru 3x2x4x5 forward, 1 thread",
        "gru 3x2x4x5 train, 1 thread",
        "gru 7x1x4x5 forward, 1 thread",
        "gru 7x1x4x5 train, 1 thread",
        "gru 7x1x4x5 stream, 1 thread",
    ]
    assert [point.threads for point in found] == [1] * 5 + [2] * 5
    assert len(points(KernelOptions(), all_threads=1)) == 3 * (2 * len(SHAPES) + 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shapes": ("3x4x5",)}, "--shapes must be TxBxIxH, such as 128x32x128x128, got '3x4x5'"),
        ({"shapes": ("3x0x4x5",)}, "--shapes must be TxBxIxH"),
        ({"threads": ("3",)}, "--threads must be 1..2 on this machine, or all, got '3'"),
        ({"modes": ("training",)}, "--modes must be of forward, train, stream, got 'training', did you mean 'train'?"),
        ({"modes": ("stream",), "shapes": ("3x2x4x5",)}, "--modes stream needs a shape of batch 1"),
        ({"peers": ("tensorflow",)}, "--peers must be of torch, onnxruntime, jax, keras"),
        ({"rounds": 2}, "--rounds must be at least 3"),
        ({"seconds": 0.0}, "--seconds must be above 0"),
        ({"cells": ()}, "--cells must be at least one"),
    ],
)
def test_wrong_options_are_named(wrong, message):
    with pytest.raises(InputError, match=message.replace("?", r"\?").replace(".", r"\.")):
        points(KernelOptions(**wrong), all_threads=2)


def test_cells_come_by_name_or_from_a_file(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from recur import Cell, State, tanh\nclass Own(Cell):\n    gates = 'a'\n"
        "    def step(x, U, s):\n        return State(h=tanh(x.a + U.a(s.h)))\nother = 3\n"
    )
    assert type(load_cell(f"{file}:Own")).__name__ == "Own"
    with pytest.raises(InputError, match=r"--cells: .* did you mean 'gru'"):
        load_cell("grru")
    with pytest.raises(InputError, match=r"there is no file none\.py"):
        load_cell("none.py:Own")
    with pytest.raises(InputError, match=r"other must be a class of recur\.Cell without projection, got 3"):
        load_cell(f"{file}:other")


def works(problem, mode):
    """Return who has something to offer at a point, of those that are installed."""
    found = {}
    for name, peer in peers().items():
        if name != "compile" and not peer.missing:
            peer.use_threads(1)
            found[name] = peer.build(problem, mode, 1)
    return {name: work for name, work in found.items() if work}


@pytest.mark.parametrize("mode", ["forward", "train", "stream"])
@pytest.mark.parametrize(
    "cell", ["lstm", "gru", "rnn", "lstm-peephole", "mgu", "gru-before", "indrnn", "lstm-layernorm"]
)
def test_all_libraries_agree(cell, mode):
    problem = Problem(cell, load_cell(cell), SMALL)
    truth, found = problem.truth(train=mode == "train"), works(problem, mode)
    assert {"recur", "torch"} <= set(found) if problem.standard else {"recur", "eager", "lstm"} <= set(found)
    for work in found.values():
        work.call()
        right = truth if work.problem is problem else work.problem.truth(train=mode == "train")
        work.problem.check(work.results(), right.only("y") if mode == "stream" else right)


@pytest.mark.slow
def test_compiled_loops_agree_too():
    problem = Problem("mgu", load_cell("mgu"), Shape(2, 2, 2, 2))
    try:
        work = peers()["compile"].build(problem, "forward", 1)
        results = work.results()
    except Exception as error:  # no compiler for C++, or a torch that does not support this Python
        pytest.skip(f"torch.compile does not work here: {error}")
    problem.check(results, problem.truth(train=False))


def test_what_is_off_missing_or_of_another_shape_is_refused():
    problem = Problem("lstm", load_cell("lstm"), SMALL)
    truth = problem.truth(train=True)
    problem.check(truth.values, truth)
    # an LSTM's two biases have the same gradient, a GRU's do not
    problem.check({name: value for name, value in truth.values.items() if name != "dbias_hh"}, truth)
    for name, value in truth.values.items():
        with pytest.raises(WrongResult, match=f"{name} is off by .* of its largest value, allowed is 3e-05"):
            problem.check(truth.values | {name: value + 1e-3 * np.abs(value).max()}, truth)
    with pytest.raises(WrongResult, match="y is off by nan"):
        problem.check(truth.values | {"y": truth.values["y"] * np.nan}, truth)
    with pytest.raises(WrongResult, match=r"dx must have shape .* but is missing"):
        problem.check({name: value for name, value in truth.values.items() if name != "dx"}, truth)
    with pytest.raises(WrongResult, match="h must have shape"):
        problem.check(truth.values | {"h": truth.values["y"]}, truth)


def swapped(monkeypatch, name):
    """Have a library that takes the first gate for the last."""

    def build(problem, mode, threads):
        weights = {key: torch.flip(value, [0]) for key, value in problem.weights.items()}
        other = replace(problem)
        other.__dict__["weights"] = weights
        return replace(peers_module._torch(other, mode, threads), problem=problem)

    known = peers()
    monkeypatch.setattr(kernels, "peers", lambda: known | {name: Peer(name, build)})


def test_a_wrong_library_is_not_timed_and_the_others_are(monkeypatch, capsys, tmp_path):
    swapped(monkeypatch, "jax")
    command = ["bench", "kernels", *TINY, "--cells", "gru", "--peers", "torch,jax", "--json", str(tmp_path / "r.json")]
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 1
    out, err = capsys.readouterr()
    found = json.loads((tmp_path / "r.json").read_text())
    assert [list(row["peers"]) for row in found["rows"]] == [["torch"]] * 2
    for text in (out, err, *found["wrong"][:1]):
        assert "gru 3x2x4x5 forward, 1 thread: jax is wrong: y is off by" in text


def test_where_recur_is_wrong_nothing_is_timed(monkeypatch):
    swapped(monkeypatch, "recur")
    record = Record(replace(ONE, modes=("train",)))
    kernels.bench(record, lambda line: None)
    assert not record.rows()
    assert "recur is wrong" in record.wrong[0]


def test_a_row_per_point(capsys, tmp_path):
    path, drawn = tmp_path / "rows.json", tmp_path / "ratios.svg"
    shapes = ["--shapes", "3x2x4x5,4x1x2x3"]
    more = ["--cells", "lstm,mgu", "--peers", "torch,eager,lstm", "--json", str(path), "--picture", str(drawn)]
    assert main(["bench", "kernels", *TINY, *shapes, *more]) == 0
    out, err = capsys.readouterr()
    assert "[10/10] mgu 4x1x2x3 stream, 1 thread: recur " in err
    found = json.loads(path.read_text())
    assert len(found["rows"]) == 10
    row = found["rows"][0]
    names = ["cell", "T", "B", "I", "H", "mode", "threads", "recur_ms", "limit_ms", "peers"]
    assert [row[name] for name in names[:7]] == ["lstm", 3, 2, 4, 5, "forward", 1]
    assert set(names) <= set(row)
    assert row["recur_ms"] > 0
    assert row["peers"]["torch"] > 0
    assert row["ratios"]["torch"]["low"] <= row["ratios"]["torch"]["median"] <= row["ratios"]["torch"]["high"]
    assert (row["busy"], row["allocator"]) == (False, "default")
    last = found["rows"][-1]
    assert set(last["peers"]) == {"eager", "lstm"}
    # MGU has two gates where the LSTM has four
    assert last["time_per_flop"] == pytest.approx(2 / last["ratios"]["lstm"]["median"])
    assert found["versions"]["torch"] == torch.__version__
    assert found["machine"]["processor"]
    if machine.available() is None:
        assert found["machine"]["by_threads"]["1"]["gflops"] > 0
        assert row["limit_ms"] > 0
    assert "Forward and backward, 1 thread\ncell  TxBxIxH" in out
    assert "T calls of one step each, 1 thread" in out
    root = ElementTree.fromstring(drawn.read_text())
    assert root.tag.endswith("svg")
    assert {"Forward", "One step per call", "torch", "eager", "mgu  3x2x4x5"} <= {
        element.text for element in root.iter()
    }


def test_beside_a_busy_process(monkeypatch):
    started = []
    start = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *given, **more: started.append(start(*given, **more)) or started[-1]
    )
    options = replace(ONE, busy=True)
    record = Record(options)
    kernels.bench(record, lambda line: None)
    assert [row["busy"] for row in record.rows()] == [False, True]
    assert [process.returncode is not None for process in started] == [True]
    assert "Forward, 1 thread, beside a busy process" in table(record.as_json())


def test_the_other_allocator_is_a_process_of_its_own(monkeypatch, capsys):
    seen = []

    def run(command, env, **more):
        seen.append((command, env))
        path = command[command.index("--json") + 1]
        with open(path, "w") as file:
            json.dump({"rows": [rows[0] | {"allocator": "kept"}], "wrong": ["something"]}, file)

    record = Record(ONE)
    kernels.bench(record, lambda line: None)
    rows = record.rows()
    monkeypatch.setattr(allocator.subprocess, "run", run)
    monkeypatch.setattr(kernels.platform, "libc_ver", lambda: ("glibc", "2.36"))
    record.options = replace(ONE, allocator=True)
    kernels.bench(record, lambda line: None)
    command, env = seen[0]
    assert command[2:5] == ["recur.app.main", "bench", "kernels"]
    assert "--allocator" not in command
    assert env["MALLOC_MMAP_MAX_"] == "0"
    assert record.rows()[-1]["allocator"] == "kept"
    assert record.wrong == ["with malloc keeping its memory, something"]
    assert "Forward, 1 thread, malloc keeping its memory" in table(record.as_json())


def test_the_flags_of_options_say_the_same(monkeypatch):
    options = KernelOptions(cells=("gru", "mgu"), seconds=0.5, busy=True, peers=("torch",), json="x.json")
    assert allocator.flags(options) == ["--cells", "gru,mgu", "--peers", "torch", "--seconds", "0.5", "--busy"]
    monkeypatch.setattr(os, "environ", os.environ | allocator.KEEPING)
    assert allocator.allocator() == "kept"


def test_ctrl_c_shows_what_was_measured(monkeypatch, capsys, tmp_path):
    calls = []

    def interrupted(*given, **more):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*given, **more)

    monkeypatch.setattr(kernels, "measure", interrupted)
    command = ["bench", "kernels", *TINY, "--cells", "gru", "--peers", "torch", "--json", str(tmp_path / "r.json")]
    assert main(command) == 130
    out, err = capsys.readouterr()
    assert "Forward, 1 thread\n" in out
    assert "backward" not in out
    assert err.splitlines()[-1] == "stopped"
    assert len(json.loads((tmp_path / "r.json").read_text())["rows"]) == 1


def test_missing_libraries_are_noted_or_if_asked_for_an_error(monkeypatch, capsys):
    known = peers()
    absent = Peer("keras", known["keras"].build, ("no_such_package",))
    monkeypatch.setattr(kernels, "peers", lambda: {"recur": known["recur"], "torch": known["torch"], "keras": absent})
    monkeypatch.setattr(kernels, "PEERS", ("torch", "keras", "compile"))
    assert main(["bench", "kernels", *TINY, "--cells", "gru"]) == 0
    assert "keras is not measured: pip install 'recur[bench]'" in capsys.readouterr().out
    assert main(["bench", "kernels", *TINY, "--peers", "keras"]) == 2
    assert "--peers keras needs the package no_such_package: pip install 'recur[bench]'" in capsys.readouterr().err
    with pytest.raises(MissingExtra):
        kernels.bench(Record(KernelOptions(peers=("keras",))), print)


def test_every_library_takes_two_turns_in_a_round():
    turns = []
    calls = {name: lambda name=name: turns.append(name) for name in "ab"}
    timing = measure(calls, rounds=4, seconds=1e-9, settle=0)
    assert len(timing.rounds["a"]) == clock.LEAST_ROUNDS
    # each block starts with a call that is not timed
    assert turns[:4] == ["a", "a", "b", "b"]
    assert "".join(turns[4:12:2]) == "abba"
    assert "".join(turns[12:20:2]) == "baab"


def test_rounds_that_waited_are_left_out_unless_too_few_remain():
    clean, waited = Round(2.0, 2.0), Round(9.0, None)
    timing = Timing({"recur": [clean, waited, clean, clean], "torch": [Round(4.0, 4.0)] * 4}, {})
    assert (timing.median("recur"), timing.contended("recur")) == (2, False)
    assert timing.ratio("torch", "recur").median == 2
    timing = Timing({"recur": [clean, waited, waited, waited], "torch": [Round(4.0, 4.0)] * 4}, {})
    assert (timing.median("recur"), timing.contended("recur")) == (9, True)
    assert timing.ratio("torch", "recur").median == pytest.approx(4 / 9)


def test_a_contended_row_is_marked():
    timing = Timing({"recur": [Round(2.0, None)] * 3, "torch": [Round(4.0, 4.0)] * 3}, {"recur": 6, "torch": 0})
    point = Point("gru", Shape(3, 2, 4, 5), "forward", 1)
    record = Record(KernelOptions(), measured=[Measured(point, load_cell("gru"), timing, {}, False)])
    text = table(record.as_json())
    assert "2.00*" in text
    assert "2.00 (2.00-2.00)" in text
    assert "* threads waited for a core" in text
    assert "3x2x4x5" in picture(record.as_json())


def test_times_have_three_digits():
    assert [digits(value) for value in (1234.5, 99.95, 6.374, 0.01234)] == ["1234", "100.0", "6.37", "0.0123"]
