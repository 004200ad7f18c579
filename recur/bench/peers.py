"""Who is measured: recur, torch.nn and other libraries, each called the way that its users call it."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from recur.bench.problem import Problem, Results, forward, layer_results, load_weights, named, torch_layer
from recur.cells import cell_named


@dataclass(frozen=True)
class Work:
    """A library ready at a point: `call` is timed; `results` does the same and names what came out, of `problem`."""

    call: Callable[[], Any]
    results: Callable[[], Results]
    problem: Problem


Build = Callable[[Problem, str, int], Work | None]


@dataclass(frozen=True)
class Peer:
    """A library: how it is made ready for (problem, mode, threads), or None where it has nothing to offer."""

    name: str
    build: Build
    packages: tuple[str, ...] = ()
    use_threads: Callable[[int], None] = lambda threads: None

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]

    @property
    def versions(self) -> dict[str, str]:
        """The installed packages' versions."""
        return {name: version(name) for name in self.packages if not self.missing}


def peers() -> dict[str, Peer]:
    """Return all libraries by name, recur first."""
    found = [
        Peer("recur", _recur),
        Peer("torch", _torch),
        Peer("onnxruntime", _later("recur.bench.onnx_peer", "build"), ("onnxruntime", "onnx")),
        Peer("jax", _later("recur.bench.jax_peer", "build_jax"), ("jax", "jaxlib"), _jax_threads),
        Peer("keras", _later("recur.bench.jax_peer", "build_keras"), ("keras", "jax"), _jax_threads),
        Peer("eager", _later("recur.bench.eager_peer", "build")),
        Peer("lstm", _lstm),
        Peer("compile", _later("recur.bench.eager_peer", "build_compiled")),
    ]
    return {peer.name: peer for peer in found}


def _later(module: str, function: str) -> Build:
    def build(problem: Problem, mode: str, threads: int) -> Work | None:
        work: Work | None = getattr(import_module(module), function)(problem, mode, threads)
        return work

    return build


def _jax_threads(threads: int) -> None:
    import_module("recur.bench.jax_peer").use_threads(threads)


def _recur(problem: Problem, mode: str, threads: int) -> Work:
    layer = load_weights(problem.layer(), problem.weights)
    if mode == "stream" and hasattr(layer, "stream"):
        start: Any = layer.stream
        return _stream(problem, lambda: start(batch=problem.shape.B).step)
    return layer_work(problem, layer, mode)


def _torch(problem: Problem, mode: str, threads: int) -> Work | None:
    return layer_work(problem, torch_layer(problem), mode) if problem.standard else None


def _lstm(problem: Problem, mode: str, threads: int) -> Work | None:
    """Recur's own LSTM, to compare another cell's time per flop with."""
    if problem.standard:
        return None
    return _recur(replace(problem, name="lstm", cell=cell_named("lstm")), mode, threads)


def layer_work(problem: Problem, layer: nn.Module, mode: str) -> Work:
    """Return the work of a layer with torch.nn's way of being called."""
    if mode == "stream":
        return _stream(problem, lambda: _Stepper(layer))
    if mode == "forward":
        x = problem.input

        @torch.no_grad()
        def infer() -> list[Tensor]:
            return forward(layer, x)

        return Work(infer, lambda: named(problem, ["y", *problem.states], infer()), problem)
    x = problem.input.clone().requires_grad_()
    inputs, above = [x, *layer.parameters()], problem.above

    def train() -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(layer, x), inputs, above)

    return Work(train, lambda: layer_results(problem, layer, x, above), problem)


class _Stepper:
    """A layer of torch.nn, called for one step at a time with the state of the step before."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer, self._state = layer, list[Any]()

    def __call__(self, x: Tensor) -> Tensor:
        output, *self._state = self._layer(x[None], *self._state)
        y: Tensor = output[0]
        return y


@torch.no_grad()
def _stream(problem: Problem, start: Callable[[], Callable[[Tensor], Tensor]]) -> Work:
    steps = list(problem.input)
    going = start()

    @torch.no_grad()
    def call() -> None:
        for x in steps:
            going(x)

    @torch.no_grad()
    def results() -> Results:
        step = start()
        # a stream may use the same memory for every answer
        return {"y": torch.stack([step(x).clone() for x in steps]).numpy()}

    return Work(call, results, problem)
