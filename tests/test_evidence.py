"""Evidence: log-odds by hand, each text left out of its own counts, no n-gram across texts."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from recur.data import Batch, Sequences
from recur.layers.evidence import Evidence
from recur.models import Classifier, ClassifierConfig
from recur.tasks.classify.baselines import Part
from recur.tasks.classify.model import ClassifyObjective, count_evidence

TEXTS = [[5, 7, 9], [5, 8], [6, 7, 9, 9], [6, 8]]
LABELS = torch.tensor([0, 0, 1, 1])


def counted(ngrams: int, classes: int = 2) -> Evidence:
    evidence = Evidence(classes, ngrams, 1000)
    values = torch.tensor([token for text in TEXTS for token in text])
    evidence.count(values, torch.tensor([len(text) for text in TEXTS]), LABELS)
    return evidence


def test_log_odds_are_those_of_the_counts():
    # 5 is in 2 texts of class 0 and none of class 1; the prior is worth 2 texts, half for each class
    odds = counted(1)(torch.tensor([[5, 6, 7, 123, 0]]))[0, :, 0]
    assert torch.allclose(odds, torch.tensor([math.log(1 / 3), math.log(3), 0.0, 0.0, 0.0]))


def test_a_word_that_a_text_has_twice_counts_once():
    assert counted(1)(torch.tensor([[9]])).item() == 0


def test_a_text_is_left_out_of_its_own_counts():
    # only the third text has 9 9: with itself left out nothing is known of it
    evidence, text = counted(2), torch.tensor([TEXTS[2]])
    assert evidence(text)[0, 3, 1] > 0
    assert evidence(text, own=LABELS[2:3])[0, 3, 1] == 0
    # 6 is in another text of class 1 too
    assert torch.allclose(evidence(text, own=LABELS[2:3])[0, 0, 0], torch.tensor(math.log(2 / 1)))


@pytest.mark.parametrize("ids", [1, 3, 5, 100])
def test_a_training_part_is_counted_piece_by_piece(monkeypatch: pytest.MonkeyPatch, ids: int):
    monkeypatch.setattr("recur.tasks.classify.model.COUNTED_IDS", ids)
    evidence = Evidence(2, 2, 1000)
    count_evidence(evidence, Part(Sequences.of(TEXTS), LABELS.numpy()))
    for name, counts in counted(2).state_dict().items():
        assert torch.equal(evidence.state_dict()[name], counts)


def test_no_ngram_crosses_texts_or_padding():
    evidence = counted(2)
    # 9 is followed by 5 only over the border between texts
    assert evidence(torch.tensor([[9, 5]]))[0, 1, 1] == 0
    assert evidence(torch.tensor([[0, 5]]))[0, 1, 1] == 0
    assert evidence(torch.tensor([[5, 7]]))[0, 0, 1] == 0


@pytest.mark.parametrize(("classes", "size"), [(2, 3), (3, 9)])
def test_two_classes_need_one_number_more_need_one_each(classes: int, size: int):
    evidence = counted(3, classes)
    assert evidence.size == size
    assert evidence(torch.zeros(4, 6, dtype=torch.int64)).shape == (4, 6, size)


def test_unbalanced_classes_leave_unseen_words_silent():
    evidence = Evidence(2, 1, 100)
    evidence.count(torch.tensor([5, 6, 6, 6]), torch.tensor([1, 1, 1, 1]), torch.tensor([0, 1, 1, 1]))
    odds = evidence(torch.tensor([[50, 5, 6]]))[0, :, 0]
    assert odds[0] == 0
    assert odds[1] < 0 < odds[2]


def test_the_counts_travel_in_the_state_dict():
    evidence, twin = counted(2), Evidence(2, 2, 1000)
    twin.load_state_dict(evidence.state_dict())
    text = torch.tensor([TEXTS[2]])
    assert torch.equal(twin(text), evidence(text))
    assert not list(evidence.parameters())


def test_a_class_without_texts_gives_finite_odds():
    evidence = Evidence(3, 1, 100)
    evidence.count(torch.tensor([5, 6]), torch.tensor([1, 1]), torch.tensor([0, 1]))
    assert evidence(torch.tensor([[5, 6, 50]])).isfinite().all()
    assert Evidence(2, 1, 100)(torch.tensor([[5]])).isfinite().all()


def test_a_classifier_leaves_a_training_text_out_of_what_it_is_shown():
    config = ClassifierConfig(20, 2, evidence=2, evidence_buckets=100, cell="gru", hidden_size=4)
    model = Classifier(config)
    values = torch.tensor([token for text in TEXTS for token in text])
    model.evidence.count(values, torch.tensor([len(text) for text in TEXTS]), LABELS)
    text, length = torch.tensor([TEXTS[2]]), torch.tensor([4])
    with_itself, without = model(text, length), model(text, length, LABELS[2:3])
    assert not torch.equal(with_itself, without)
    objective = ClassifyObjective(model.train())
    batch = Batch(text, length, LABELS[2:3], torch.tensor([0]))
    assert torch.equal(objective.measure(batch)[0]["loss"], cross_entropy(without, LABELS[2:3]))
    model.eval()
    assert torch.equal(objective.measure(batch)[0]["loss"], cross_entropy(with_itself, LABELS[2:3]))
    assert model.bfloat16()(text, length).isfinite().all()


def test_the_classifier_starts_its_gates_for_the_lag_asked_for():
    layer = Classifier(ClassifierConfig(20, 2, cell="lstm", hidden_size=500, chrono=50)).recurrent
    steps = 1 / (1 - torch.sigmoid(layer.bias_ih_l0[500:1000]))
    assert 45 < steps.max() <= 50
