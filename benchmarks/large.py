"""A table larger than memory should be: generate it, train on it, and print the seconds and the memory of each phase.

    python benchmarks/large.py --rows 20000000                       # 1.3 GB of texts of 5 to 15 words
    python benchmarks/large.py --rows 7000000 --words 60 180         # 5 GB

About six in a hundred words tell the class of their text, the rest say nothing. Memory is the most that the process had
at a time, pages of mapped files included, as `getrusage` says it.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter, run

CLASSES = ("art", "news", "science", "sports")
CHUNK = 100_000


def write_table(path: Path, rows: int, words: tuple[int, int], vocabulary: int) -> None:
    """Write texts of words that are frequent as Zipf says; some of each text's words tell its class."""
    generator = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlu"))
    spelled = np.array(["".join(letters[generator.integers(0, 12, n)]) for n in generator.integers(2, 9, vocabulary)])
    share = np.cumsum(1 / np.arange(1, vocabulary + 1))
    telling = vocabulary // 20  # ids of class c are those with id % 20 == c
    with open(path, "w", encoding="ascii") as file:
        file.write("text,label\n")
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            lengths = generator.integers(words[0], words[1] + 1, count)
            labels = generator.integers(0, len(CLASSES), count)
            ids = np.searchsorted(share, generator.random(int(lengths.sum())) * share[-1])
            told = generator.random(len(ids)) < 0.06
            ids[told] = 20 * generator.integers(0, telling, int(told.sum())) + np.repeat(labels, lengths)[told]
            texts, ends = spelled[np.minimum(ids, vocabulary - 1)].tolist(), np.cumsum(lengths).tolist()
            begins = [0, *ends[:-1]]
            file.writelines(
                f"{' '.join(texts[a:b])},{CLASSES[label]}\n"
                for a, b, label in zip(begins, ends, labels.tolist(), strict=True)
            )


def main(
    rows: int = 20_000_000,
    *,
    words: Annotated[tuple[int, int], "fewest and most words of a text"] = (5, 15),
    vocabulary: int = 30_000,
    folder: Annotated[Path | None, "where the table is kept; a temporary folder by default"] = None,
    train: Annotated[tuple[str, ...], Parameter(consume_multiple=True, allow_leading_hyphen=True)] = (),
) -> None:
    """Generate a table and train on it.

    Args:
        rows: of the table.
        words: fewest and most words of a text.
        vocabulary: distinct words.
        folder: where table and run are kept; a temporary folder by default.
        train: more options of `recur train classify`, behind all others.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        table, out = place / f"table-{rows}-{words[0]}-{words[1]}.csv", place / "run"
        start = time.monotonic()
        if not table.exists():
            half = table.with_suffix(".half")
            write_table(half, rows, words, vocabulary)
            half.rename(table)
        print(f"{rows:,} rows, {table.stat().st_size:,} bytes, {time.monotonic() - start:.0f} s to write", flush=True)
        options = ["--epoch-steps", "2000", "--epochs", "2", "--validation-share", "0.005", "--test-share", "0.01"]
        command = [sys.executable, "-m", "recur.app.main", "train", "classify", "--train", str(table)]
        command += ["--out", str(out), "--overwrite", *options, *train]
        print(*command[1:])
        start = before = time.monotonic()
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            for line in process.stderr:
                now = time.monotonic()
                print(f"{now - start:7.1f} s  +{now - before:6.1f} s  {line.rstrip()}", flush=True)
                before = now
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"{time.monotonic() - start:7.1f} s in all, {used.ru_utime + used.ru_stime:.0f} s of one processor, ",
            end="",
        )
        print(f"exit status {process.returncode}; most memory at a time {used.ru_maxrss / 1e6:.2f} GB")
        if process.returncode == 0:
            metrics = json.loads((out / "metrics.json").read_text())
            print(f"test accuracy {metrics['test']['accuracy']:.4f} of {metrics['rows']}")


if __name__ == "__main__":
    run(main)
