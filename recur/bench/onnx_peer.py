"""ONNX Runtime: a model of one LSTM, GRU or RNN node, with the weights inside so that it can pack them ahead."""

from importlib import import_module
from typing import Any

import numpy as np

from recur.bench.peers import Work
from recur.bench.problem import Problem, Results, named

# ONNX's order of gates, by their places in torch's
ORDERS = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


def build(problem: Problem, mode: str, threads: int) -> Work | None:
    """Return the work of ONNX Runtime, which has no training."""
    if mode == "train" or not problem.standard:
        return None
    ort = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    stream = mode == "stream"
    session = ort.InferenceSession(_model(problem, stream), options, providers=["CPUExecutionProvider"])
    x = problem.input.numpy()
    if not stream:
        feeds = {"x": x}
        names = ["y", *problem.states]

        def infer() -> list[Any]:
            values: list[Any] = session.run(names, feeds)
            return values

        def results() -> Results:
            y, *states = infer()
            return named(problem, names, [y[:, 0], *states])

        return Work(infer, results, problem)

    steps = [step[None] for step in x]
    going = _Stepper(problem, session)

    def call() -> None:
        for step in steps:
            going(step)

    def stepped() -> Results:
        one = _Stepper(problem, session)
        return {"y": np.stack([one(step) for step in steps])}

    return Work(call, stepped, problem)


class _Stepper:
    """A session called for one step at a time, the final states of a call given to the next."""

    def __init__(self, problem: Problem, session: Any) -> None:
        zeros = np.zeros((1, problem.shape.B, problem.shape.H), np.float32)
        self._feeds = {f"{name}0": zeros for name in problem.states}
        self._session, self._names = session, list(problem.states)

    def __call__(self, x: Any) -> Any:
        # y of one step is h, so that asking for it would only cost time
        values = self._session.run(self._names, {"x": x, **self._feeds})
        self._feeds = dict(zip(self._feeds, values, strict=True))
        return values[0][0]


def _model(problem: Problem, stream: bool) -> bytes:
    onnx = import_module("onnx")
    helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
    T, B, I, H = 1 if stream else problem.shape.T, problem.shape.B, problem.shape.I, problem.shape.H
    order = ORDERS[problem.name]

    def gates(name: str) -> Any:
        blocks = problem.weights[name].chunk(len(order))
        return np.concatenate([blocks[gate].numpy() for gate in order])

    arrays = {
        "W": gates("weight_ih")[None],
        "R": gates("weight_hh")[None],
        "b": np.concatenate([gates("bias_ih"), gates("bias_hh")])[None],
    }
    initial = [f"{name}0" for name in problem.states] if stream else []
    kind = problem.name.upper()
    options = {"hidden_size": H} | ({"linear_before_reset": 1} if kind == "GRU" else {})
    node = helper.make_node(kind, ["x", *arrays, "", *initial], ["y", *problem.states], **options)
    sizes = {"x": [T, B, I], "y": [T, 1, B, H]} | {name: [1, B, H] for name in (*initial, *problem.states)}
    inputs, outputs = (
        [helper.make_tensor_value_info(name, FLOAT, sizes[name]) for name in names]
        for names in (["x", *initial], ["y", *problem.states])
    )
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph([node], "layer", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    serialized: bytes = model.SerializeToString()
    return serialized
