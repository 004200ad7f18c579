"""The command `recur bench kernels`."""

import sys
from typing import Any

from cyclopts import App

from recur.app.flags import with_flags
from recur.bench.options import KernelOptions
from recur.tasks.options import make_options

bench = App(name="bench", help="Measure recur beside other libraries and the machine's limit.")


def kernels(**given: Any) -> None:
    """Time recurrent layers side by side, after checking that they agree: recur, torch.nn, ONNX Runtime, JAX, Keras.

    A peer whose numbers are wrong is not timed, and the command ends with code 1.
    """
    options = make_options(KernelOptions, given, "recur bench kernels")
    options.check()
    # torch takes a second to import, and a mistyped flag has no use for it
    from recur.bench.kernels import bench
    from recur.bench.picture import write_picture
    from recur.bench.record import Record
    from recur.bench.show import table

    record = Record(options)

    def show() -> None:
        found = record.as_json()
        print(table(found))
        if options.picture and found["rows"]:
            write_picture(options.picture, found)

    try:
        bench(record, lambda line: print(line, file=sys.stderr))
    except KeyboardInterrupt:
        show()
        raise
    show()
    if record.wrong:
        sys.exit(1)


bench.command(with_flags(KernelOptions, kernels))
