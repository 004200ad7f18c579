"""Streams: one step at a time gives what the whole sequence gives."""

import threading

import pytest
import torch
from torch import Tensor, nn

import recur
from recur import CELLS, InputError, Recurrent, State
from recur.cells import LSTM, LSTMP, Zoneout
from recur.models import Classifier, ClassifierConfig
from recur.stream import LOOK_EVERY, Stream, _Compiled, _Looped, _Pace

LAYERS = {
    **{kind: (lambda kind=kind, **o: getattr(recur, kind)(4, 5, 2, **o)) for kind in ("RNN", "LSTM", "GRU")},
    **{
        name: (lambda name=name, **o: Recurrent(name, 4, 5, 2, **o))
        for name in CELLS
        if name not in ("rnn", "lstm", "gru")
    },
    "LSTM-proj": lambda **o: recur.LSTM(4, 5, 2, proj_size=3, **o),
    "LSTMP": lambda **o: Recurrent(LSTMP, 4, 5, 2, proj_size=3, **o),
    "zoneout": lambda **o: Recurrent(Zoneout(LSTM), 4, 5, 2, **o),
}


def whole(layer: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The layer's outputs for x [B, T, D], and its final states."""
    layer.eval()
    with torch.no_grad():
        output, final = layer(x.transpose(0, 1))
    layer.train()
    return output.transpose(0, 1), [final] if isinstance(final, Tensor) else list(final)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-12 if a.dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_step_by_step_is_the_whole_sequence(name: str, batch: int, backend: str):
    # in training too: a stream has no dropout, and masks are their expectation
    layer = LAYERS[name](backend=backend, dropout=0.5, recurrent_dropout=0.5)
    x = torch.randn(batch, 7, 4)
    output, final = whole(layer, x)
    stream = layer.stream(batch)
    assert close(torch.stack([stream.step(x[:, t]) for t in range(7)], 1), output)
    assert all(close(a, b) for a, b in zip(stream.state, final, strict=True))
    stream.reset()
    parts = [stream.steps(x[:, :3]), stream.step(x[:, 3])[:, None], stream.steps(x[:, 4:])]
    assert close(torch.cat(parts, 1), output)
    assert all(close(a, b) for a, b in zip(stream.state, final, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_compiled_step_has_the_bits_of_the_whole_sequence(dtype: torch.dtype):
    layer, x = recur.GRU(37, 70, 2, dtype=dtype), torch.randn(2, 9, 37, dtype=dtype)
    stream = layer.stream(2)
    assert type(stream._runner) is _Compiled
    assert torch.equal(torch.stack([stream.step(x[:, t]) for t in range(9)], 1), whole(layer, x)[0])


def test_other_backends_stream_as_well():
    x = torch.randn(1, 5, 4)
    for layer in (recur.LSTM(4, 5, backend="torch"), Recurrent("mingru", 4, 5, backend="parallel")):
        stream = layer.stream()
        assert type(stream._runner) is (_Looped if layer.backend == "torch" else _Compiled)
        assert close(torch.stack([stream.step(x[:, t]) for t in range(5)], 1), whole(layer, x)[0])


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_state_can_be_read_kept_and_set(backend: str):
    layer, x = recur.LSTM(4, 5, 2, proj_size=3, backend=backend), torch.randn(2, 8, 4)
    stream = layer.stream(2)
    stream.steps(x[:, :3])
    kept = stream.state
    assert [tuple(value.shape) for value in kept] == [(2, 2, 3), (2, 2, 5)]
    before = [value.clone() for value in kept]
    first = stream.step(x[:, 3])
    assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))
    stream.state = State(c=kept.c, h=kept.h)
    assert torch.equal(stream.step(x[:, 3]), first)
    other = layer.stream(2)
    other.state = kept
    kept.h.zero_()
    assert torch.equal(other.step(x[:, 3]), first)
    with pytest.raises(InputError, match=r"`state` must be State\(h=..., c=...\), got tuple"):
        stream.state = (kept.h, kept.c)
    with pytest.raises(InputError, match=r"`state.c` must have shape \[2, 2, 5\], got \[2, 1, 5\]"):
        stream.state = State(h=kept.h, c=kept.c[:, :1])


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_rows_begin_anew_on_their_own(backend: str):
    layer, x = recur.GRU(4, 5, 2, backend=backend), torch.randn(3, 6, 4)
    stream = layer.stream(3)
    stream.steps(x[:, :4])
    stream.reset([2, 0])
    output = stream.steps(x[:, 4:])
    assert close(output[[0, 2]], whole(layer, x[[0, 2], 4:])[0])
    assert close(output[1:2], whole(layer, x[1:2])[0][:, 4:])
    stream.reset(torch.tensor([False, True, False]))
    assert not stream.state.h[:, 1].any()
    assert stream.state.h[:, 0].any()
    stream.reset([])
    assert stream.state.h.any()
    with pytest.raises(InputError, match=r"`rows` must be in 0..B-1 = 0..2, got \[3\]"):
        stream.reset([3])
    with pytest.raises(InputError, match=r"`rows` must be row numbers or a bool mask \[B\] = \[3\], got \[0.5\]"):
        stream.reset([0.5])


def scale(layer: nn.Module) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(2)


def replaced(layer: nn.Module) -> None:
    layer.weight_hh_l1 = nn.Parameter(2 * layer.weight_hh_l1.detach())


def assigned(layer: nn.Module) -> None:
    layer.load_state_dict({name: 2 * value for name, value in layer.state_dict().items()}, assign=True)


def trained(layer: nn.Module) -> None:
    layer(torch.randn(3, 2, 4))[0].sum().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()


@pytest.mark.parametrize("change", [scale, replaced, assigned, trained])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_weights_that_change_are_noticed_at_the_next_step(change, backend: str):
    layer, x = recur.LSTM(4, 5, 2, backend=backend), torch.randn(2, 4)
    stream = layer.stream(2)
    stream.step(x)
    state = stream.state
    change(layer)
    with torch.no_grad():
        expected = layer(x[None], (state.h, state.c))[0][0]
    assert close(stream.step(x), expected)


def test_weights_written_to_past_autograd_are_noticed_soon():
    layer, x = recur.LSTM(4, 5), torch.randn(1, 4)
    stream = layer.stream()
    layer.weight_hh_l0.data.mul_(2)
    for _ in range(LOOK_EVERY):
        stream.step(x)
    state = stream.state
    with torch.no_grad():
        assert close(stream.step(x), layer(x[None], (state.h, state.c))[0][0])
        # at once where several steps are asked for, and where the type of the input tells
        layer.weight_hh_l0.data.mul_(0.5)
        state = stream.state
        assert close(stream.steps(x[None]), layer(x[None], (state.h, state.c))[0])
    layer.double()
    assert stream.step(x.double()).dtype == torch.float64


def test_weights_under_a_parametrization_are_followed():
    class Half(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    layer, x = Recurrent("mgu", 4, 5), torch.randn(1, 4)
    nn.utils.parametrize.register_parametrization(layer, "weight_hh_l0", Half())
    stream = layer.stream()
    for _ in range(3):
        stream.step(x)
        state = stream.state
        scale(layer)
        with torch.no_grad():
            assert close(stream.step(x), layer(x[None], state).output[0])


def test_an_output_is_the_callers():
    layer, x = recur.GRU(4, 5), torch.randn(1, 3, 4)
    expected, stream = whole(layer, x)[0], layer.stream()
    first = stream.step(x[:, 0])
    kept = first.clone()
    assert not first.requires_grad
    second = stream.step(x[:, 1])
    assert torch.equal(first, kept)
    second.zero_()
    assert close(stream.step(x[:, 2]), expected[:, 2])


def test_inputs_of_any_layout_and_inference_mode():
    layer, x = recur.GRU(4, 5), torch.randn(4, 3)
    expected = whole(layer, x.T[:, None])[0][:, 0]
    with torch.inference_mode():
        stream = layer.stream(3)
        assert close(stream.step(x.T), expected)
    stream.reset()
    assert close(stream.step(x.T), expected)
    with torch.inference_mode():
        state = stream.state
    stream.state = state
    frozen = recur.GRU(4, 5)
    with torch.inference_mode():
        frozen.weight_hh_l0 = nn.Parameter(torch.randn(15, 5), requires_grad=False)
        assert close(frozen.stream(3).step(x.T), frozen(x.T[None])[0][0])


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_nan_stays_in_its_row_until_it_is_reset(kind: str):
    layer, x = getattr(recur, kind)(4, 5, 2), torch.randn(3, 3, 4)
    clean = whole(layer, x)[0]
    x[1, 1, 2] = torch.nan
    stream = layer.stream(3)
    output = torch.stack([stream.step(x[:, t]) for t in range(3)], 1)
    assert close(output[[0, 2]], clean[[0, 2]])
    assert output[1, 1:].isnan().all()
    stream.reset([1])
    assert close(stream.step(x[:, 0])[1], clean[1, 0])


def test_several_threads_may_call_one_stream_and_several_streams():
    layer, x = recur.LSTM(8, 16, 2), torch.randn(1, 8)
    expected = layer.stream()
    for _ in range(400):
        expected.step(x)
    shared, own = layer.stream(), [layer.stream() for _ in range(4)]

    def work(number: int) -> None:
        for _ in range(100):
            shared.step(x)
        for _ in range(400):
            own[number].step(x)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for stream in (shared, *own):
        assert all(torch.equal(a, b) for a, b in zip(stream.state, expected.state, strict=True))


def test_any_number_of_threads_gives_the_same_bits():
    layer, x = recur.LSTM(200, 200, 2), torch.randn(2, 40, 200)
    alone = layer.stream(2)
    expected = torch.stack([alone.step(x[:, t]) for t in range(40)])
    torch.set_num_threads(2)
    try:
        stream = layer.stream(2)
        pace = stream._runner._pace
        assert pace.most == 2
        output = []
        for t in range(40):
            pace.threads = 1 + (t // 3) % 2
            output.append(stream.step(x[:, t]))
        assert torch.equal(torch.stack(output), expected)
        # a stream goes by torch's number as it is now
        for t in range(LOOK_EVERY):
            alone.step(x[:, t])
        assert alone._runner._pace is not None
        torch.set_num_threads(1)
        assert torch.equal(alone.steps(x[:, :2]), stream.steps(torch.cat([x[:, :LOOK_EVERY], x[:, :2]], 1))[:, -2:])
        assert alone._runner._pace is stream._runner._pace is None
    finally:
        torch.set_num_threads(1)


def test_a_pace_takes_the_number_of_threads_that_is_faster():
    def steps(pace: _Pace, alone: float, together: float, count: int = 4000) -> list[int]:
        taken = []
        for _ in range(count):
            taken.append(pace.threads)
            pace.note(alone if pace.threads == 1 else together)
        return taken

    pace = _Pace(2)
    assert steps(pace, 20, 11)[10:] == [2] * 3990
    # one step that another process has held up changes nothing
    pace.note(1000)
    assert steps(pace, 20, 11) == [2] * 4000
    # where it does not pay, what is lost by trying is little
    for together in (22, 90, 4000):
        taken = steps(_Pace(2), 20, together, 20_000)
        lost = sum(together - 20 for number in taken if number == 2)
        assert lost < 20 * len(taken) / 12
    # and a machine that has become quiet is found out about
    pace = _Pace(2)
    steps(pace, 20, 4000)
    assert steps(pace, 20, 11, 10_000)[-1] == 2


def test_what_is_wrong_is_named():
    layer = recur.LSTM(4, 5)
    with pytest.raises(InputError, match="`layer` must have one direction to be streamed, got a bidirectional one"):
        recur.LSTM(4, 5, bidirectional=True).stream()
    for batch in (0, 1.5):
        with pytest.raises(InputError, match=f"`batch` must be a whole number above 0, got {batch}"):
            layer.stream(batch)
    stream = layer.stream(2)
    assert repr(stream) == "Stream(LSTM(4, 5), batch=2)"
    assert isinstance(stream, Stream)
    wanted = r"`x` must be \[B, D\] = \[2, 4\], torch.float32, on the CPU, got "
    with pytest.raises(InputError, match=wanted + r"\[1, 4\], torch.float32, on cpu"):
        stream.step(torch.zeros(1, 4))
    with pytest.raises(InputError, match=wanted + r"\[2, 4\], torch.float64, on cpu"):
        stream.step(torch.zeros(2, 4, dtype=torch.float64))
    with pytest.raises(InputError, match=wanted + "list"):
        stream.step([[0.0] * 4] * 2)
    with pytest.raises(InputError, match=r"`x` must be \[B, T, D\] = \[2, 1, 4\], .*, got \[2, 4\]"):
        stream.steps(torch.zeros(2, 4))
    with pytest.raises(InputError, match=r"`x` must be \[B, T, D\] = \[2, 1, 4\], .*, got \[2, 0, 4\]"):
        stream.steps(torch.zeros(2, 0, 4))
    assert not stream.state.h.any()


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "concat"])
@pytest.mark.parametrize(
    "options",
    [{}, {"ngrams": 3, "evidence": 2, "layers": 2, "cell": "gru"}, {"embedding": "one-hot", "cell": "mgu"}],
    ids=["plain", "ngrams", "one-hot"],
)
def test_a_classifier_scores_the_text_so_far_after_every_word(pooling: str, options: dict[str, object]):
    sizes = {"vocabulary_size": 12, "classes": 3, "hidden_size": 5, "embedding_size": 4, "dropout": 0.5}
    model = Classifier(ClassifierConfig(**sizes, pooling=pooling, **options)).eval()
    if model.embedding.ngram is not None:
        nn.init.normal_(model.embedding.ngram.weight)
    if model.evidence is not None:
        model.evidence.count(torch.randint(2, 12, (60,)), torch.full((6,), 10), torch.tensor([0, 1, 2, 0, 1, 2]))
    tokens, stream = torch.randint(1, 12, (3, 6)), model.stream(3)
    with torch.no_grad():
        for t in range(6):
            expected = model(tokens[:, : t + 1], torch.full((3,), t + 1))
            assert close(stream.step(tokens[:, t]), expected)
        stream.reset([1])
        expected = model(tokens[1:2, :1], torch.tensor([1]))
        assert close(stream.step(tokens[:, 0])[1:2], expected)


def test_what_is_wrong_with_a_classifiers_stream_is_named():
    sizes = {"vocabulary_size": 12, "classes": 3, "hidden_size": 5, "embedding_size": 4}
    with pytest.raises(InputError, match="`model` must read in one direction to be streamed, got a bidirectional one"):
        Classifier(ClassifierConfig(**sizes, bidirectional=True)).eval().stream()
    model = Classifier(ClassifierConfig(**sizes))
    with pytest.raises(InputError, match=r"`model` must be in evaluation to be streamed, .* call model.eval"):
        model.stream()
    stream = model.eval().stream(2)
    with pytest.raises(InputError, match=r"`tokens` must be \[B\] = \[2\], got \[1\]"):
        stream.step(torch.tensor([3]))
    with pytest.raises(InputError, match=r"ids must be in 0..11"):
        stream.step(torch.tensor([3, 12]))
    model.train()
    with pytest.raises(InputError, match="`model` must be in evaluation"):
        stream.step(torch.tensor([3, 4]))
