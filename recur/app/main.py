"""The command line: `train classify`, `predict`, `evaluate`, `vectors`, `flow`, `probe`, `show`, `bench`, `demo`."""

import io
import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from recur.app.bench import bench
from recur.app.flags import with_flags
from recur.app.flow import flow
from recur.app.probe import probe
from recur.app.show import show
from recur.errors import InputError, RecurError
from recur.tasks.classify_options import ClassifyOptions
from recur.tasks.options import make_options, read_toml

# torch and all that needs it is imported inside the commands, so that --help and a mistyped flag answer at once

app = App(
    name="recur",
    help="Recurrent networks: from a file to an answer.",
    version=lambda: version("recur"),
    suppress_keyboard_interrupt=False,
)
train = App(name="train", help="Train a network and write a run folder.")
vectors = App(name="vectors", help="Look into files of word vectors.")
app.command(train)
app.command(vectors)
app.command(flow)
app.command(show)
app.command(bench)
app.command(probe)

Json = Annotated[bool, Parameter(negative="")]


def classify(*, options: Path | None = None, **given: Any) -> None:
    """Train classifiers on labelled text, compare them with simple methods, and write a report.

    Parameters
    ----------
    options
        TOML file with any of these options; a flag overrides it.
    """
    from recur.tasks.classify import resumed_options, train_classify

    values = (read_toml(options) if options else {}) | given
    source = str(options) if options else "recur train classify"
    made = resumed_options(values) if values.get("resume") else make_options(ClassifyOptions, values, source)
    _train(made, train_classify)


train.command(with_flags(ClassifyOptions, classify))


def _train(options: ClassifyOptions, train_classify: Any) -> None:
    from recur.tasks.classify_result import summary
    from recur.tasks.interrupt import Interrupted
    from recur.tasks.run import read_metrics

    folder = options.folder
    try:
        train_classify(options)
    except Interrupted as stopped:
        command = shlex.join(["recur", "train", "classify", "--resume", "--out", str(folder)])
        print(f"\nstopped; carry it on with:\n  {command}", file=sys.stderr)
        sys.exit(128 + stopped.signum)
    metrics = read_metrics(folder)
    print(summary(metrics))
    for note in metrics["notes"]:
        print(f"note: {note}")
    print(f"report: {folder / 'report.html'}")


@app.command
def predict(
    run: Path,
    *texts: str,
    file: Path | None = None,
    text: str | None = None,
    json: Json = False,
) -> None:
    """Say which class texts belong to: label, probability and text, separated by tabs.

    Parameters
    ----------
    run
        Run folder of a trained network.
    texts
        The texts; without any, and without --file, each line of standard input is one.
    file
        Table of texts instead: .csv, .tsv, .jsonl or .parquet.
    text
        Column of the texts in --file; that of the training file by default.
    json
        Print a JSON object per text, with the probability of every class.
    """
    from recur.predictor import load

    predictor = load(run)
    if file and texts:
        raise InputError("--file and texts must not be given together; leave one of them out")
    source = _column(file, text or predictor.text_column) if file else texts or _lines()
    rows = iter(source)
    while chunk := list(islice(rows, 1000)):
        for line, answer in zip(chunk, predictor.predict(chunk), strict=True):
            print(_json({"text": line} | asdict(answer)) if json else _tabs(answer.label, answer.probability, line))


@app.command
def evaluate(
    run: Path,
    file: Path,
    *,
    text: str | None = None,
    label: str | None = None,
    skip_bad_rows: Json = False,
    json: Json = False,
) -> None:
    """Score a trained network on a file of labelled texts.

    Parameters
    ----------
    run
        Run folder of a trained network.
    file
        Table of texts and labels: .csv, .tsv, .jsonl or .parquet.
    text
        Column of the texts; that of the training file by default.
    label
        Column of the labels; that of the training file by default.
    skip_bad_rows
        Leave broken rows out.
    json
        Print one JSON object.
    """
    from recur.predictor import load
    from recur.tasks.classify_result import between, columns, percent

    predictor = load(run)
    scores = predictor.evaluate(file, text=text, label=label, skip_bad_rows=skip_bad_rows)
    if json:
        print(_json(asdict(scores)))
        return
    print(f"accuracy  {percent(scores.accuracy)}  (95% interval {between(scores.interval)}, {scores.rows:,} texts)")
    print(f"macro F1  {scores.macro_f1:.4f}")
    print(f"loss      {scores.loss:.4f}\n")
    for note in scores.notes:
        print(f"note: {note}")
    labels = predictor.labels
    counts = [[name, *map(str, row)] for name, row in zip(labels, scores.confusion, strict=True)]
    print(columns([["true \\ predicted", *labels], *counts]))


@vectors.command
def nearest(file: Path, word: str, *, count: int = 10) -> None:
    """List the words whose vectors point most nearly the same way, with the cosine.

    Parameters
    ----------
    file
        word2vec .bin or .txt, GloVe .txt, also .gz.
    word
        As it is spelled in the file.
    count
        How many words.
    """
    from recur.data.vectors import read_vectors

    for other, cosine in read_vectors(file).nearest(word, count):
        print(f"{cosine:.4f}  {other}")


@app.command
def demo(*, out: Path = Path("runs/demo")) -> None:
    """Train an RNN, an LSTM and a GRU on a task that needs memory, and compare them.

    The texts are strings of the embedded Reber grammar: whether one is valid hangs on its second symbol and on the
    last but one, with many others between.

    Parameters
    ----------
    out
        Folder for the data and the run; an earlier demo in it is replaced.
    """
    from recur.data.reber import write_reber_files
    from recur.tasks.classify import train_classify

    train_file, test_file = write_reber_files(out / "data", **DEMO_DATA)
    options = ClassifyOptions(
        train=str(train_file), test=str(test_file), out=str(out / "run"), overwrite=True, **DEMO_OPTIONS
    )
    _train(options, train_classify)
    program = "recur" if shutil.which("recur") else sys.argv[0]
    print(f"on a file of your own:\n  {program} train classify --train FILE.csv --text COLUMN --label COLUMN")


DEMO_DATA = {"n_train": 4000, "n_test": 1000, "seed": 1}
DEMO_OPTIONS: dict[str, Any] = {
    "cell": ("rnn", "lstm", "gru"),
    "tokens": "characters",
    "embedding": "one-hot",
    "hidden_size": 32,
    "pooling": "last",
    "word_dropout": 0.0,
    "embedding_dropout": 0.0,
    "dropout": 0.0,
    "chrono": 40,
    "epochs": 25,
    "learning_rate": 0.01,
    "schedule": "cosine",
    "warmup": 8.0,
    "clip_global_norm": 1.0,
    "threads": 1,
}


def _column(file: Path, name: str) -> Iterator[str]:
    from recur.data.tables import read_table

    return (row[name] for row in read_table(file, [name]))


def _lines() -> Iterable[str]:
    if sys.stdin.isatty():
        raise InputError("give texts, --file, or lines on standard input: recur predict RUN < texts.txt")
    return (line.rstrip("\n") for line in sys.stdin)


def _tabs(label: str, probability: float, text: str) -> str:
    return f"{label}\t{probability:.4f}\t{' '.join(text.split())}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def main(tokens: list[str] | None = None) -> int:
    """Run a command line; errors are one message on standard error and exit code 2, Ctrl-C is 130."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal that is not UTF-8, or a byte that is not, must not end the work
            stream.reconfigure(errors="replace" if stream is sys.stdin else "backslashreplace")
    try:
        app(tokens, exit_on_error=False, print_error=False, result_action="return_none")
    except (CycloptsError, RecurError) as error:
        print(f"recur: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our output, such as head, has enough
        sys.stderr.close()
        return 141
    return 0


if __name__ == "__main__":
    sys.exit(main())
