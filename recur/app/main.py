"""The command line: `train TASK`, `predict`, `evaluate`, `generate`, `flow`, `vectors`, `probe`, `show`, `bench`..."""

import io
import json
import shlex
import shutil
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from recur.app.bench import bench
from recur.app.flags import with_flags, with_task_flags
from recur.app.flow import flow
from recur.app.generate import generate
from recur.app.probe import probe
from recur.app.show import show
from recur.errors import InputError, RecurError
from recur.tasks.options import make_options, read_toml
from recur.tasks.registry import TASKS, Entry, check_known, chosen, entry_of

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
app.command(with_task_flags(["columns"], flow))
app.command(generate, name="generate")
app.command(show)
app.command(bench)
app.command(probe)

Json = Annotated[bool, Parameter(negative="")]


def _add(name: str, entry: Entry) -> None:
    """Make the command `recur train NAME`."""

    def command(*, options: Path | None = None, **given: Any) -> None:
        from recur.tasks.job_run import resumed_options

        values = (read_toml(options) if options else {}) | given
        source = str(options) if options else f"recur train {name}"
        if values.get("resume"):
            _train(name, resumed_options(entry.task, values))
        else:
            _train(name, make_options(entry.options, values, source))

    command.__doc__ = f"""{entry.help}

    Parameters
    ----------
    options
        TOML file with any of these options; a flag overrides it.
    """
    train.command(with_flags(entry.options, command), name=name)


for _name, _entry in TASKS.items():
    _add(_name, _entry)


def _train(name: str, options: Any) -> None:
    from recur.tasks.interrupt import Interrupted
    from recur.tasks.job_result import summary
    from recur.tasks.job_run import train_run
    from recur.tasks.run import read_metrics

    task, folder = TASKS[name].of(vars(options)).task, options.folder
    try:
        train_run(task, options)
    except Interrupted as stopped:
        command = shlex.join(["recur", "train", name, "--resume", "--out", str(folder)])
        print(f"\nstopped; carry it on with:\n  {command}", file=sys.stderr)
        if (folder / "model.safetensors").is_file():
            print(f"until then {folder} answers as it did after its best epoch so far", file=sys.stderr)
        sys.exit(128 + stopped.signum)
    metrics = read_metrics(folder)
    print(summary(metrics, task.figure_of(metrics["test"])))
    for note in metrics["notes"]:
        print(f"note: {note}")
    print(f"report: {folder / 'report.html'}")


def predict(run: Path, *items: str, file: Path | None = None, json: Json = False, **given: Any) -> None:
    """Answer texts by a trained network: a line for each, separated by tabs.

    Parameters
    ----------
    run
        Run folder of a trained network.
    items
        The texts; without any, and without --file, each line of standard input is one. A forecaster goes on where the
        run's own table ends.
    file
        File instead, of the kind that the network was trained on.
    json
        Print a JSON object for each.
    """
    from recur.data.sources import watched
    from recur.tasks.predictor import load
    from recur.tasks.progress import Progress
    from recur.tasks.run import read_config

    entry = entry_of(read_config(run), run)
    check_known([entry.columns, entry.decoding], given, run)
    predictor = load(run)
    if file and items:
        raise InputError("--file and texts must not be given together; leave one of them out")
    decoding = chosen([entry.decoding], given)
    given_rows = predictor.items(file, **chosen([entry.columns], given)) if file else items or predictor.own()
    rows = iter(_lines() if given_rows is None else given_rows)
    heading = "" if json else predictor.heading
    # where the answers themselves are on the screen, they show how far it is
    with nullcontext() if sys.stdout.isatty() else watched(Progress().reading):
        while chunk := list(islice(rows, 256)):
            answers = predictor.predict(chunk, **decoding)
            if heading:
                print(heading)
                heading = ""
            for item, answer in zip(chunk, answers, strict=True):
                print(_json(predictor.json(item, answer)) if json else predictor.line(item, answer))


def evaluate(run: Path, file: Path, *, json: Json = False, **given: Any) -> None:
    """Score a trained network on a file of the kind that it was trained on.

    Parameters
    ----------
    run
        Run folder of a trained network.
    file
        The file.
    json
        Print one JSON object.
    """
    from recur.data.sources import watched
    from recur.tasks.predictor import load
    from recur.tasks.progress import Progress
    from recur.tasks.run import read_config

    entry = entry_of(read_config(run), run)
    check_known([entry.columns, entry.decoding], given, run)
    predictor = load(run)
    with watched(Progress().reading):
        scores = predictor.evaluate(file, **given)
    print(_json(asdict(scores)) if json else predictor.shown(scores))


app.command(with_task_flags(["columns", "decoding"], predict))
app.command(with_task_flags(["columns", "decoding"], evaluate))


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

    train_file, test_file = write_reber_files(out / "data", **DEMO_DATA)
    options = TASKS["classify"].options(
        train=str(train_file), test=str(test_file), out=str(out / "run"), overwrite=True, **DEMO_OPTIONS
    )
    _train("classify", options)
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


def _lines() -> Iterable[str]:
    if sys.stdin.isatty():
        raise InputError("give texts, --file, or lines on standard input: recur predict RUN < texts.txt")
    return (line.rstrip("\n") for line in sys.stdin)


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
