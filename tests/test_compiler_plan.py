"""Plans: how many stages, what is kept for the backward, and that a plan run by the interpreter is the equation."""

import pytest
import torch
from equations import Odd, assert_close, by_interpreter, by_reference, problem

from recur.cells import CELLS, GRU, LSTM, LSTMP, Elman
from recur.cells.cell import Cell, State, mean, sigmoid, tanh
from recur.compiler.graph import folded, gate_values
from recur.compiler.plan import plan_backward, plan_forward
from recur.compiler.trace import trace

EVERY = {**CELLS, "lstmp": LSTMP, "odd": Odd}


def plans(cell: Cell):
    text = trace(cell).text
    return plan_forward(text, True), plan_backward(text)


def kept(cell: Cell) -> list[str]:
    return [node.op for node in plan_forward(trace(cell).text, True).slots]


@pytest.mark.parametrize("name", EVERY)
def test_the_plan_gives_what_the_equation_gives(name: str):
    for seed, sizes in enumerate([(5, 3, 4, 6), (1, 1, 1, 1), (3, 2, 5, 9)]):
        given = problem(EVERY[name](), *sizes, bias=seed != 1, seed=seed)
        assert_close(by_interpreter(given), by_reference(given))


def test_an_lstm_keeps_its_four_gates():
    assert sorted(kept(LSTM())) == ["sigmoid", "sigmoid", "sigmoid", "tanh"]


def test_a_gru_keeps_three_gates_and_the_product_that_is_reset():
    assert sorted(kept(GRU())) == ["product", "sigmoid", "sigmoid", "tanh"]


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
def test_an_elman_network_keeps_nothing_but_its_output(activation: str):
    assert kept(Elman(activation)) == []


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [
        *((name, 1, 1) for name in ("rnn", "lstm", "lstm-peephole", "lstm-coupled", "gru", "slstm")),
        *[("gru-before", 2, 2), ("mgu", 2, 2), ("lstmp", 2, 3), ("lstm-layernorm", 5, 5)],
    ],
)
def test_a_step_has_no_more_stages_than_it_needs(name: str, forward: int, backward: int):
    there, back = plans(EVERY[name]())
    assert (len(there.stages), len(back.stages)) == (forward, backward)


@pytest.mark.parametrize("name", EVERY)
def test_inference_keeps_nothing_that_no_product_reads(name: str):
    plan = plan_forward(trace(EVERY[name]()).text, False)
    operands = {
        product.operand.first for stage in plan.stages for product in stage.products if product.operand.kind == "slot"
    }
    assert sorted(operands) == list(range(len(plan.slots)))
    assert not plan.rows


@pytest.mark.parametrize("name", EVERY)
def test_every_buffer_is_written_before_it_is_read(name: str):
    text = trace(EVERY[name]()).text
    for plan in (plan_forward(text, True), plan_forward(text, False)):
        written: set[tuple[str, str | int]] = set()
        products = set()
        for stage in plan.stages:
            for product in stage.products:
                products |= set(product.leaves)
                if product.operand.kind == "slot":
                    assert ("slot", product.operand.first) in written
            for node, (buffer, index) in stage.loads.items():
                if buffer in ("temporary", "slot", "new", "row", "sum"):
                    assert (buffer, index) in written, node
                if buffer in ("product", "project"):
                    assert node in products
            done = set(stage.loads)
            for node in stage.order:
                assert all(arg in done or arg.op == "const" for arg in node.args), node
                done.add(node)
            written |= {(buffer, index) for buffer, index, _ in stage.stores}
        assert {("new", state) for state in plan.equation.states} <= written


def test_gradients_that_are_multiplied_together_lie_side_by_side():
    for name, cell in EVERY.items():
        gradients = plan_backward(trace(cell()).text).gradients
        assert gradients is not None
        first, gates = gradients.inputs
        derived = {gate: gradients.slots[first + number] for number, gate in enumerate(gates)}
        for argument, start, columns in gradients.runs:
            for number, column in enumerate(columns):
                assert gradients.slots[start + number] is column.gradient, (name, argument)
        assert len(derived) == len(set(gates)), name
    # those of the inputs and of the recurrent products of an LSTM are the same four numbers
    assert len(plan_backward(trace(LSTM()).text).gradients.slots) == 4
    assert len(plan_backward(trace(GRU()).text).gradients.slots) == 4
    assert len(plan_backward(trace(Elman()).text).gradients.slots) == 1


def test_only_states_that_pass_elementwise_are_carried():
    assert plan_backward(trace(LSTM()).text).carries == ("c",)
    assert plan_backward(trace(GRU()).text).carries == ("h",)
    assert plan_backward(trace(Elman()).text).carries == ()


def test_biases_are_added_once_where_gate_and_product_meet():
    assert {node.name for node in folded(trace(LSTM()))} == set("ifgo")
    assert {node.name for node in folded(trace(GRU("after")))} == set("rz")

    class Twice(Cell):
        gates = "a"

        def step(x, U, s):
            return State(h=tanh(x.a + U.a(s.h)) * sigmoid(U.a(s.h)))

    assert not folded(trace(Twice()))


def test_gates_are_shown_as_their_activations():
    shown = gate_values(trace(LSTM()))
    assert {gate: node.op for gate, node in shown.items()} == {
        "i": "sigmoid",
        "f": "sigmoid",
        "g": "tanh",
        "o": "sigmoid",
    }
    assert list(gate_values(trace(GRU()))) == ["r", "z", "n"]


def test_values_of_masks_alone_send_nothing_back():
    class Masked(Cell):
        gates = "a"
        masks = "k"

        def step(x, U, s, m):
            return State(h=tanh(x.a + U.a(m.k) + mean(m.k) * s.h))

    given = problem(Masked(), 4, 3, 2, 5)
    assert_close(by_interpreter(given), by_reference(given))


def test_a_value_that_is_the_same_for_all_units_can_be_a_gradient():
    class Flat(Cell):
        gates = "a b"
        state = "h c"

        def step(x, U, s):
            return State(h=s.c + mean(U.a(s.h)), c=s.c * mean(x.b) + mean(x.a) * 0.5)

    given = problem(Flat(), 4, 3, 2, 5)
    assert_close(by_interpreter(given), by_reference(given))


def test_the_interpreter_keeps_the_dtype():
    given = problem(Odd(), 3, 2, 2, 7, dtype=torch.float32)
    found = by_interpreter(given)
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert_close(found, by_reference(given))
