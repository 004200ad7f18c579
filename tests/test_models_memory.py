"""The memory network: its encoding, its hops, where it starts and what it reads."""

import pytest
import torch

from recur.data.sequences import Sequences
from recur.data.stories import Stories, StoryBatches
from recur.errors import InputError
from recur.models.memory import MemoryConfig, MemoryNetwork

H = 8


def network(**options):
    return MemoryNetwork(MemoryConfig(**({"vocabulary_size": 12, "classes": 5, "hidden_size": H} | options))).eval()


def batch():
    """Two questions about stories of three sentences and one; sentence 3 is a question."""
    sentences = torch.tensor([[2, 3, 4, 5], [6, 3, 7, 0], [2, 8, 0, 0], [9, 3, 2, 0]])
    return sentences, torch.tensor([[0, 1, 2], [1, 0, 0]]), torch.tensor([3, 3]), torch.tensor([3, 1])


def test_a_sentence_is_its_words_weighted_by_their_places():
    model = network()
    sentences = batch()[0]
    words = [2, 3, 4, 5]
    wanted = torch.zeros(H)
    for k in range(H):
        for j, word in enumerate(words, start=1):
            weight = (1 - j / 4) - (k + 1) / H * (1 - 2 * j / 4)
            wanted[k] += weight * model.embedding.weight[word, k]
    torch.testing.assert_close(model.encode(sentences)[0], wanted)
    # the same words in another order are another sentence, padding is nothing
    assert not torch.allclose(model.encode(torch.tensor([[5, 4, 3, 2]]))[0], wanted)
    torch.testing.assert_close(model.encode(sentences[1:2, :3]), model.encode(sentences)[1:2])


@pytest.mark.parametrize("hops", [0, 1, 3])
@pytest.mark.parametrize("cell", ["mingru", "lstm"])
def test_what_lies_behind_a_story_and_other_rows_never_matter(hops, cell):
    model = network(hops=hops, cell=cell)
    sentences, story, question, lengths = batch()
    both = model(sentences, story, question, lengths)
    torch.testing.assert_close(model(sentences, story[1:, :1], question[1:], lengths[1:]), both[1:])
    story[1, 1:] = 2
    torch.testing.assert_close(model(sentences, story, question, lengths), both)
    # the numbers of the sentences are names only
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        model(sentences[order], order.argsort()[story], order.argsort()[question], lengths), both
    )


def test_a_hop_is_the_equation():
    model = network(cell="mingru", hops=2)
    sentences, story, question, _ = batch()
    x, u = model.encode(sentences)[story[0]], model.encode(sentences)[question[0]]

    def passed(hop, suffix, q, order):
        W, b = (getattr(model.hops[hop], f"{name}_ih_l0{suffix}") for name in ("weight", "bias"))
        h, states = torch.zeros(H), [torch.zeros(H)] * 3
        for t in order:
            z, n = (W @ torch.cat([x[t] * q[t], x[t], q[t]]) + b).chunk(2)
            h = states[t] = (1 - z.sigmoid()) * h + z.sigmoid() * n
        return torch.stack(states)

    q = u.expand(3, H)
    q = passed(0, "", q, (0, 1, 2)) + passed(0, "_reverse", q, (2, 1, 0))
    wanted = model.scores(passed(1, "", q, (0, 1, 2))[-1])
    torch.testing.assert_close(model(sentences, story, question, torch.tensor([3, 1]))[0], wanted)


@pytest.mark.parametrize("cell", ["mingru", "gru", "lstm"])
def test_a_hop_begins_as_attention(cell):
    model = network(cell=cell, hops=1)
    (hop,) = model.hops
    x, q = torch.randn(4, 3, H), torch.randn(4, 3, H)
    trace = hop.trace(torch.cat([x * q, x, q], -1))
    with torch.no_grad():
        for name, parameter in hop.named_parameters():
            if "hh" in name or "bias" in name:
                parameter.zero_()
        gates = hop.trace(torch.cat([x * q, x, q], -1)).gates[0]
    match = (x * q).sum(-1, keepdim=True) / H**0.5
    keep = hop.cell.keep
    wanted = torch.sigmoid(match if keep.startswith("-") else -match)
    torch.testing.assert_close(gates[keep.lstrip("-")], wanted.expand(4, 3, H))
    # nothing else sees the product
    other = next(name for name in hop.cell.gate_names if name != keep.lstrip("-"))
    changed = hop.trace(torch.cat([-x * q, x, q], -1)).gates[0][other]
    torch.testing.assert_close(changed[0], gates[other][0])
    assert trace.output.shape == (4, 3, H)


def test_no_memory_is_the_cell_over_all_words():
    model = network(hops=0, cell="gru")
    words = torch.tensor([[6, 3, 7, 9, 3, 2]])
    output, _ = model.hops[0](model.embedding(words))
    torch.testing.assert_close(model(*batch())[1:], model.scores(output[:, -1]))
    assert model.reads(*batch()).shape == (2, 0, 3)


def test_reads_are_shares_and_follow_the_gate():
    model = network(cell="mingru", hops=2)
    sentences, story, question, lengths = batch()
    shares = model.reads(sentences, story, question, lengths)
    assert shares.shape == (2, 3, 3)
    torch.testing.assert_close(shares.sum(2), torch.ones(2, 3))
    assert shares[1, :, 1:].abs().max() == 0
    # a gate that opens for sentence 1 alone
    x = model.encode(sentences)
    with torch.no_grad():
        for hop in model.hops:
            for name, parameter in hop.named_parameters():
                if name.startswith("weight"):
                    parameter[:H] = 0
                    parameter[:H, H : 2 * H] = 30 * x[1] / x[1].norm()
                else:
                    parameter[:H] = -15 * x[1].norm()
    assert (model.reads(sentences, story, question, lengths)[0].argmax(1) == 1).all()


def test_an_empty_story_is_answered_by_the_question():
    model = network()
    sentences = batch()[0]
    none = model(sentences, torch.zeros(1, 0, dtype=torch.int64), torch.tensor([3]), torch.tensor([0]))
    padded = model(sentences, torch.tensor([[2, 1]]), torch.tensor([3]), torch.tensor([0]))
    torch.testing.assert_close(none, padded)
    assert not torch.allclose(none, model(sentences, torch.tensor([[2, 1]]), torch.tensor([0]), torch.tensor([0])))


def test_wrong_sizes_are_refused():
    with pytest.raises(InputError, match="hops must be a whole number from 0 up, got -1"):
        network(hops=-1)
    with pytest.raises(InputError, match="`cell` must be one of"):
        network(cell="grue")


def test_batches_hold_each_sentence_once_and_go_on_from_a_place():
    stories = Stories(
        Sequences.of([[2, 3], [4], [5, 6, 7]]),
        Sequences.of([[0, 1, 0], [], [1]] * 4),
        torch.tensor([2, 2, 0] * 4).numpy(),
        torch.arange(12).numpy(),
    )
    batches = StoryBatches(stories, 5, seed=1)
    seen = list(batches)
    assert sorted(torch.cat([one.index for one in seen]).tolist()) == list(range(12))
    for one in seen:
        assert len(one.sentences.unique(dim=0)) == len(one.sentences)
        for row, number in enumerate(one.index.tolist()):
            told = one.sentences[one.story[row, : one.lengths[row]]]
            wanted = [stories.sentences[i].tolist() for i in stories.stories[number]]
            assert [[i for i in words if i] for words in told.tolist()] == wanted
            asked = [i for i in one.sentences[one.question[row]].tolist() if i]
            assert asked == stories.sentences[stories.questions[number]].tolist()
            assert one.answers[row] == number
    half = StoryBatches(stories, 5, seed=1)
    next(iter(half))
    other = StoryBatches(stories, 5, seed=1)
    other.load_state_dict(half.state_dict())
    assert [one.index.tolist() for one in other] == [one.index.tolist() for one in seen[1:]]
