"""JAX - `lax.scan` over the steps, the input's product hoisted out of it, under jit - and Keras 3 on JAX."""

import os
from importlib import import_module
from typing import Any

import numpy as np

from recur.bench.peers import Work
from recur.bench.problem import Problem, Results, named
from recur.errors import RecurError

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")

# Keras's order of gates, by their places in torch's; its own inverse
KERAS = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2), "rnn": (0,)}


def use_threads(threads: int) -> None:
    """Have JAX compute with so many threads from now on; arrays and functions made before are void."""
    # XLA reads this when its client is made, and has no other setting
    os.environ["NPROC"] = str(threads)
    import_module("jax.extend.backend").clear_backends()


def build_jax(problem: Problem, mode: str, threads: int) -> Work | None:
    """Return the work of a layer written in JAX."""
    if not problem.standard:
        return None
    jax = import_module("jax")
    # matrices as [inputs, gates], so that no step transposes them
    weights = {name: jax.numpy.asarray(value.numpy().T) for name, value in problem.weights.items()}
    x = jax.numpy.asarray(problem.input.numpy())
    layer = _layer(problem)
    if mode == "stream":
        return _stream(problem, jax.jit(layer), weights, x)
    names = ["y", *problem.states]

    def run(x: Any, weights: Any) -> Any:
        states, y = layer(weights, x, _zeros(problem))
        return y, *states

    if mode == "train":
        run = _with_gradients(run, problem)
        names += ["dx", *(f"d{name}" for name in weights)]

    def read(values: list[Any]) -> list[Any]:
        return [
            np.asarray(value).T if name.startswith("dw") else value for name, value in zip(names, values, strict=True)
        ]

    return _compiled(problem, run, (x, weights), names, read)


def build_keras(problem: Problem, mode: str, threads: int) -> Work | None:
    """Return the work of Keras's layer."""
    if not problem.standard or mode == "stream":
        return None
    keras = import_module("keras")
    if keras.backend.backend() != "jax":
        raise RecurError(f"Keras is measured on JAX, but runs on {keras.backend.backend()}: set KERAS_BACKEND=jax")
    order = KERAS[problem.name]
    kind = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}[problem.name]
    layer = kind(problem.shape.H, return_sequences=True, return_state=True)
    layer.build((problem.shape.B, problem.shape.T, problem.shape.I))

    def gates(value: Any) -> Any:
        blocks = np.split(np.asarray(value), len(order))
        return np.concatenate([blocks[gate] for gate in order])

    ih, hh, *biases = (gates(value.numpy()) for value in problem.weights.values())
    layer.set_weights([ih.T, hh.T, np.stack(biases) if problem.name == "gru" else sum(biases)])
    variables = [variable.value for variable in layer.trainable_variables]
    fixed = [variable.value for variable in layer.non_trainable_variables]
    x = import_module("jax").numpy.asarray(problem.input.transpose(0, 1).contiguous().numpy())
    names = ["y", *problem.states]

    def run(x: Any, variables: Any) -> Any:
        return tuple(layer.stateless_call(variables, fixed, x)[0])

    if mode == "train":
        run = _with_gradients(run, problem, rows_first=True)
        names += ["dx", "dweight_ih", "dweight_hh", "dbias_ih", *(["dbias_hh"] * (problem.name == "gru"))]

    def read(values: list[Any]) -> list[Any]:
        y, *rest = values
        states, rest = rest[: len(problem.states)], rest[len(problem.states) :]
        found = [np.asarray(y).swapaxes(0, 1), *states]
        if mode == "train":
            dx, dih, dhh, bias = rest
            both = bias if problem.name == "gru" else [bias]
            found += [np.asarray(dx).swapaxes(0, 1), gates(dih.T), gates(dhh.T), *map(gates, both)]
        return found

    return _compiled(problem, run, (x, variables), names, read)


def _layer(problem: Problem) -> Any:
    """Return (weights, x [T, B, I], states) -> (states, y [T, B, H])."""
    jax = import_module("jax")
    jnp, sigmoid, tanh = jax.numpy, jax.nn.sigmoid, jax.numpy.tanh

    def lstm(weights: Any, states: Any, gates: Any) -> Any:
        h, c = states
        i, f, g, o = jnp.split(gates + h @ weights["weight_hh"], 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return (h, c), h

    def gru(weights: Any, states: Any, gates: Any) -> Any:
        (h,) = states
        product = h @ weights["weight_hh"] + weights["bias_hh"]
        (rx, zx, nx), (rh, zh, nh) = jnp.split(gates, 3, axis=-1), jnp.split(product, 3, axis=-1)
        n = tanh(nx + sigmoid(rx + rh) * nh)
        z = sigmoid(zx + zh)
        h = (1 - z) * n + z * h
        return (h,), h

    def rnn(weights: Any, states: Any, gates: Any) -> Any:
        h = tanh(gates + states[0] @ weights["weight_hh"])
        return (h,), h

    step = {"lstm": lstm, "gru": gru, "rnn": rnn}[problem.name]

    def layer(weights: Any, x: Any, states: Any) -> Any:
        bias = weights["bias_ih"] + (0 if problem.name == "gru" else weights["bias_hh"])
        return jax.lax.scan(lambda states, gates: step(weights, states, gates), states, x @ weights["weight_ih"] + bias)

    return layer


def _zeros(problem: Problem) -> tuple[Any, ...]:
    zeros = import_module("jax").numpy.zeros
    return tuple(zeros((problem.shape.B, problem.shape.H), "float32") for _ in problem.states)


def _with_gradients(run: Any, problem: Problem, rows_first: bool = False) -> Any:
    """Return a function that gives run's values and the gradients of x and of all weights."""
    jax = import_module("jax")
    dy, *states = (value.numpy() for value in problem.above)
    above = (jax.numpy.asarray(dy.swapaxes(0, 1) if rows_first else dy), *(jax.numpy.asarray(v[0]) for v in states))

    def train(x: Any, weights: Any) -> Any:
        values, backward = jax.vjp(run, x, weights)
        dx, gradients = backward(above)
        # JAX sorts a dict by its names
        return (
            *values,
            dx,
            *([gradients[name] for name in problem.weights] if isinstance(gradients, dict) else gradients),
        )

    return train


def _compiled(problem: Problem, run: Any, inputs: Any, names: list[str], read: Any) -> Work:
    jax = import_module("jax")
    compiled = jax.jit(run)

    def call() -> Any:
        return jax.block_until_ready(compiled(*inputs))

    return Work(call, lambda: named(problem, names, read(list(call()))), problem)


def _stream(problem: Problem, layer: Any, weights: Any, x: Any) -> Work:
    steps = [x[t : t + 1] for t in range(len(x))]
    carried = _zeros(problem)

    def call() -> None:
        nonlocal carried
        for step in steps:
            carried, y = layer(weights, step, carried)
            y.block_until_ready()

    def results() -> Results:
        states, ys = _zeros(problem), []
        for step in steps:
            states, y = layer(weights, step, states)
            ys.append(np.asarray(y[0]))
        return {"y": np.stack(ys)}

    return Work(call, results, problem)
