"""`gradient_flow`: how far back each recurrence in a module remembers, and what stops it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_map

from recur.errors import InputError
from recur.flow.capture import Capture, Captured, Loss, capture, find_layers, unchanged
from recur.flow.criteria import judge, slopes_of, spectral_radius
from recur.flow.flow import GradientFlow
from recur.flow.gates import GateTally
from recur.flow.jacobians import RowJacobians, average
from recur.flow.result import LayerFlow, LayerWatch
from recur.flow.runs import CellRun, EquationRun, Run, Swept
from recur.flow.sampled import Spectra, sampled_spectra
from recur.flow.spectrum import horizon, lyapunov, product_spectrum, step_spectrum
from recur.flow.steps import as_mapping, cell_of, check_input, check_state, run_steps, zeros_for
from recur.flow.subspace import SMALL
from recur.flow.verdict import Setting, advise, verdict
from recur.layers.ttt import TTTLinear


def gradient_flow(
    module: nn.Module,
    inputs: Any,
    loss: Loss | None = None,
    *,
    state: Any = None,
    rows: int | Sequence[int] | None = None,
    k: int = 8,
    every: int | None = None,
) -> GradientFlow:
    """Measure how far back the recurrences in a module remember.

    The module is run once, as it is, in its present mode. Gradients are total derivatives of the loss, of all rows;
    Jacobians are those along the states of some rows, in float64. Module, gradients, buffers and random numbers are
    left as they were.

    At T = 200, H = 256 and 32 rows it takes the time of 11 training steps on the compiled kernels for an Elman network,
    10 for a GRU and 12 for an LSTM, on two cores (in processor time of one thread 9, 8 and 11; with `every=1` 71, 37
    and 96); `watch_gradients`, which does without singular values, 2 to 4.

    Args:
        module: a recurrent layer of recur's or torch.nn's, a module that contains some, or a step function
            `(x_t, state) -> state` with state a tensor, a tuple of tensors, or a State, each [B, n], the first (or h)
            being the output. torch.nn's RNNCell, LSTMCell and GRUCell are step functions.
        inputs: the module's argument, a tuple of them, or a dict by name, such as `{"input": x, "lengths": [5, 3]}`;
            of a step function x [T, B, D].
        loss: from the module's output to a number; a step function's output are its h [T, B, H]. None: the mean over
            rows of a fixed random projection (a vector of norm 1) of the module's output where that is one vector for
            each row, [B, C], elsewhere of its last layer's h after each row's last step.
        state: the initial state of a step function; zeros where it has a `hidden_size` and one state.
        rows: the batch rows of which Jacobians are taken; their logarithms are averaged, the rows aligned at their last
            steps. None: the longest one.
        k: how many singular values and exponents, at most n.
        every: singular values of products and steps are measured, in float64, at one of so many steps, logarithms
            between are interpolated; 1 for all. None: all where the state has up to 128 entries; else, in float32, the
            products at lags that each are a fifth further back, between which they follow the growth of k vectors that
            pass all steps, and eight steps. Measured ones are right to 0.5%.

    Returns:
        the flow of each layer and direction, see `recur.flow.result.LayerFlow`.

    Raises:
        InputError: the module has no recurrence, the loss does not depend on its states, a state is not finite (layer
            and first step are named), there is but one step, or an argument does not fit.

    Source: Hochreiter 1991; Bengio et al. 1994; Pascanu et al. 2013, arXiv:1211.5063; spectra as in Vogt et al. 2022,
    arXiv:2006.14123.

    >>> flow = gradient_flow(nn.RNN(3, 5), torch.randn(20, 2, 3))
    >>> flow.verdict, flow.hidden_gradient.shape, flow.log_singular_values.shape
    ('vanishing', (20,), (20, 5))
    """
    if not isinstance(k, int) or k < 1:
        raise InputError(f"`k` must be a whole number above 0, got {k!r}")
    if every is not None and (not isinstance(every, int) or every < 1):
        raise InputError(f"`every` must be a whole number above 0, got {every!r}")
    captured, number = _run(module, inputs, loss, state)
    flows = [_measure(one, _rows_of(one.run, rows), k, every) for one in captured]
    top = [float(np.linalg.norm(flow.hidden_gradient)) for flow in flows]
    depth = len({flow.name.removesuffix("_reverse") for flow in flows})
    passed = top[0] / top[-1] if top[-1] else math.inf
    precision = str(captured[0].run.after["h"].dtype).removeprefix("torch.")
    settings = [_setting(one.run, depth, passed) for one in captured]
    layers = [replace(flow, advice=advise(flow, setting)) for flow, setting in zip(flows, settings, strict=True)]
    return GradientFlow(tuple(layers), number, precision)


def watch_gradients(
    module: nn.Module, inputs: Any, loss: Loss | None = None, *, state: Any = None
) -> tuple[LayerWatch, ...]:
    """Measure what takes as long as 2 to 4 training steps: norms by step, spectral radii, saturation of gates.

    Arguments and errors are those of `gradient_flow`.

    Returns:
        for each layer and direction, see `recur.flow.result.LayerWatch`.
    """
    captured, _ = _run(module, inputs, loss, state)
    result = []
    for one in captured:
        swept, tally = _sweep(one, bins=False)
        run = one.run
        radii = {name: spectral_radius(matrix.float()) for name, matrix in run.matrices().items()}
        gates = {} if tally is None else tally.use()
        result.append(
            LayerWatch(
                name=run.name,
                cell=run.cell,
                steps=run.steps,
                hidden_gradient=_root(swept.rows["h"].sum(1)),
                lag_gradient=_by_lag(swept.rows["h"], run.lengths),
                weight_share=_shares(swept.weights),
                spectral_radius=radii,
                saturation={name: (use.low, use.high) for name, use in gates.items()},
            )
        )
    return tuple(result)


def _run(module: nn.Module, inputs: Any, loss: Loss | None, state: Any) -> tuple[list[Captured], float]:
    if not isinstance(module, nn.Module):
        raise InputError(
            f"`module` must be an nn.Module, got {module!r}; give a cell weights with recur.Recurrent(cell, D, H)"
        )
    if loss is not None and not callable(loss):
        raise InputError(f"`loss` must be a function of the module's output, got {type(loss).__name__}")
    # tensors of inference mode cannot take part in a gradient
    with torch.inference_mode(False):
        inputs, state = (tree_map(lambda v: v.clone() if _is_inference(v) else v, given) for given in (inputs, state))
        _refuse_matrices(module)
        if not find_layers(module):
            captured, number = _run_step(module, inputs, loss, state)
        elif state is not None:
            raise InputError("`state` is for step functions; hand a layer's initial state over in `inputs`")
        else:
            arguments, options = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
            if not isinstance(arguments, tuple) or isinstance(arguments, PackedSequence):
                arguments = (arguments,)
            kept = capture(module, arguments, options, loss)
            captured, number = kept.captured, kept.loss
    longest = max(int(one.run.lengths.max()) for one in captured)
    if longest < 2:
        raise InputError(f"`inputs` must have at least 2 steps, for a gradient to flow through, got T = {longest}")
    return [one for one in captured if one.run.steps > 1], number


def _refuse_matrices(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if isinstance(part, TTTLinear):
            raise InputError(
                f"`module` must have recurrences whose states are vectors, got {name or 'itself'}, a TTTLinear, whose "
                f"state is {part.heads} matrices [{part.size + 1}, {part.size}] a row, that learn"
            )


def _is_inference(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_inference()


def _run_step(module: nn.Module, inputs: Any, loss: Loss | None, state: Any) -> tuple[list[Captured], float]:
    known = cell_of(module)
    input = None if known is None and state is None and not hasattr(module, "hidden_size") else check_input(inputs)
    if input is None:
        zeros_for(module, torch.empty(0), ())
    assert input is not None
    if known is None:
        given = zeros_for(module, input, ("h",))["h"] if state is None else check_state(state, len(input[0]))
        with unchanged(module):
            captured, number = run_steps(module, input, given, loss)
        return [captured], number
    cell, weights = known
    if input.shape[-1] != weights.ih.shape[1]:
        raise InputError(f"`inputs` must be [T, B, D] with D = {weights.ih.shape[1]}, got {list(input.shape)}")
    names = cell.state_names
    initial = zeros_for(module, input, names) if state is None else as_mapping(check_state(state, len(input[0])), names)
    observer = Capture({})
    with torch.enable_grad():
        observer.differentiate(observer.over(cell, input, weights, initial), loss, module)
    return observer.captured, observer.loss


def _rows_of(run: Run, rows: int | Sequence[int] | None) -> tuple[int, ...]:
    lengths = run.lengths.tolist()
    if rows is None:
        return (max(range(len(lengths)), key=lambda row: lengths[row]),)
    chosen = (rows,) if isinstance(rows, int) else tuple(rows)
    for row in chosen:
        if not isinstance(row, int) or not 0 <= row < len(lengths):
            raise InputError(f"`rows` must be in 0..{len(lengths) - 1}, got {row!r}")
        if lengths[row] < 2:
            raise InputError(f"`rows` must have at least 2 steps each, got row {row} with {lengths[row]} in {run.name}")
    if not chosen:
        raise InputError("`rows` must name at least one row, got none")
    return chosen


def _sweep(one: Captured, bins: bool) -> tuple[Swept, GateTally | None]:
    run = one.run
    if not isinstance(run, EquationRun):
        return run.sweep(one.direct, one.last), None
    ragged = bool((run.lengths < run.steps).any())
    valid = torch.arange(run.steps, device=run.lengths.device)[:, None] < run.lengths if ragged else None
    tally = GateTally(run.equation, run.given.cell, valid, bins)
    return run.sweep(one.direct, one.last, tally.look), tally


def _measure(one: Captured, rows: tuple[int, ...], k: int, every: int | None) -> LayerFlow:
    run = one.run
    swept, tally = _sweep(one, bins=True)
    names = list(run.after)
    sizes = [value.shape[2] for value in run.after.values()]
    first = sum(sizes[: names.index("h")])
    observed = slice(first, first + sizes[names.index("h")])
    k = min(k, sum(sizes))
    parts = []
    for row in rows:
        jacobians = RowJacobians(run, row)
        parts.append(_spectra(jacobians, k, observed, every))
    log_jacobian, log_values, step_values = (average([part[i] for part in parts], run.steps) for i in range(3))
    exponents = np.mean([part[3] for part in parts], axis=0)
    errors = np.sqrt(np.sum([part[4] ** 2 for part in parts], axis=0)) / len(parts)
    gammas = slopes_of(run.equation) if isinstance(run, EquationRun) else {}
    return LayerFlow(
        name=run.name,
        cell=run.cell,
        steps=run.steps,
        hidden_gradient=_root(swept.rows["h"].sum(1)),
        cell_gradient={name: _root(value.sum(1)) for name, value in swept.rows.items() if name != "h"},
        unit_gradient=_root(swept.units),
        lag_gradient=_by_lag(swept.rows["h"], run.lengths),
        weight_share=_shares(swept.weights),
        log_jacobian=log_jacobian,
        log_singular_values=log_values,
        step_singular_values=step_values,
        lyapunov=exponents,
        lyapunov_error=errors,
        horizon=horizon(log_jacobian[~np.isnan(log_jacobian)]),
        criteria=judge(run.matrices(), gammas, float(exponents[0]), float(errors[0])),
        gates={} if tally is None else tally.use(),
        truth_table=None if tally is None else tally.truth_table(),
        time_constants=None if tally is None else tally.time_constants(),
        verdict=verdict(log_jacobian),
        advice=(),
        rows=rows,
    )


def _spectra(jacobians: RowJacobians, k: int, observed: slice, every: int | None) -> Spectra:
    if every is None and jacobians.size > SMALL:
        sampled = sampled_spectra(jacobians, k, observed)
        if sampled is not None:
            return sampled
    every = every or (1 if jacobians.size <= SMALL else max(1, min(4, jacobians.steps // 50)))
    norms, values = product_spectrum(jacobians, k, observed, every)
    return Spectra(norms, values, step_spectrum(jacobians, k, every), *lyapunov(jacobians, k))


def _setting(run: Run, depth: int, passed_down: float) -> Setting:
    path = run.name.split("#")[0].removesuffix("_reverse").rpartition(".l")[0]
    layer = f"module.{path}" if path else "module"
    if not isinstance(run, CellRun):
        return Setting(layer, depth=depth, passed_down=passed_down)
    relu = isinstance(run, EquationRun) and any(node.op == "relu" for node in run.equation.nodes)
    weights = run.given.weights
    return Setting(
        layer,
        keep=run.given.cell.keep,
        has_bias=weights.bias_ih is not None,
        relu=relu,
        products=weights.hh is not None,
        gates=len(run.given.cell.gate_names),
        depth=depth,
        passed_down=passed_down,
    )


def _root(squares: Tensor) -> np.ndarray[Any, Any]:
    return np.asarray(squares.clamp(min=0).sqrt().cpu().numpy(), dtype=np.float64)


def _by_lag(rows: Tensor, lengths: Tensor) -> np.ndarray[Any, Any]:
    """Return the norm over rows by distance from each row's own last step, from squares [T, B]."""
    steps = len(rows)
    at = lengths.cpu() - 1 - torch.arange(steps)[:, None]
    taken = rows.cpu().gather(0, at.clamp(min=0)).masked_fill(at < 0, 0)
    return _root(taken.sum(1))


def _shares(norms: Tensor) -> np.ndarray[Any, Any]:
    total = norms.sum()
    return np.asarray((norms / total if total > 0 else norms).cpu().numpy(), dtype=np.float64)
