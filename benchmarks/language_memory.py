"""A text of 5 GB becomes a language model in training, and how much memory that takes.

It writes a text of random words, starts `recur train generate` on it, stops it after some steps, and prints how fast
the text was read and the most memory that the process held.

    python benchmarks/language_memory.py --gigabytes 5 --tokens characters
"""

import argparse
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MIB = 1 << 20


def write_text(path: Path, size: int) -> None:
    """Write lines of words, the frequent ones often, of about `size` bytes."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    words = ["".join(rng.choice(letters[:20], rng.integers(1, 9))) for _ in range(30_000)]
    picked = np.minimum(rng.zipf(1.3, (200_000, 12)), len(words)) - 1
    lines = [" ".join(words[i] for i in line) + "\n" for line in picked.tolist()]
    written = 0
    # the same lines again and again, in another order each time
    with open(path, "wb") as file:
        while written < size:
            rng.shuffle(lines)
            data = "".join(lines).encode("ascii")[: size - written]
            written += file.write(data)


def main() -> None:
    """Write, train, stop, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--tokens", default="characters")
    parser.add_argument("--folder", default=None, help="where the text and its ids go for the while")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        text, run = Path(folder) / "text.txt", Path(folder) / "run"
        write_text(text, int(given.gigabytes * 1e9))
        size = text.stat().st_size
        print(f"{size:,} bytes of text")
        options = ["--tokens", given.tokens, "--vocabulary", "20000", "--validation-share", "0.0002"]
        options += ["--test-share", "0.0002", "--threads", "1", "--save-seconds", "5", "--watch-gradients", "0"]
        command = [sys.executable, "-m", "recur.app.main", "train", "generate", "--train", str(text), "--out", str(run)]
        start = time.monotonic()
        with subprocess.Popen([*command, *options]) as process:
            while not (run / "config.json").exists() and process.poll() is None:
                time.sleep(0.1)
            read = time.monotonic() - start
            while not (run / "trainer.ckpt").exists() and process.poll() is None:
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        print(
            f"read, counted and written as ids in {read:.0f} s: {size / read / 1e6:.0f} MB/s, the fingerprint included"
        )
        print(f"at most {most / MIB:,.0f} MiB in memory, training included")


if __name__ == "__main__":
    main()
