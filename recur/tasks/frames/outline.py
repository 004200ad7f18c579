"""From parts of labelled sequences of frames to a setup, and from trained listeners to scores, in every task."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from recur.data.frames import FrameBatches
from recur.models.listener import Listener, ListenerConfig
from recur.tasks import many_to_one
from recur.tasks.frames.augment import Augmentation
from recur.tasks.frames.baselines import run_baselines
from recur.tasks.frames.model import FrameObjective, probabilities
from recur.tasks.frames.parts import Learned, Part
from recur.tasks.job import Baseline, Scored, Setup, Trained
from recur.tasks.options import RunOptions
from recur.tasks.progress import Progress


def make_setup(
    options: RunOptions,
    data: Learned,
    fit: Callable[[Listener], None],
    augmentation: Augmentation | None,
    louder: Tensor | None,
    config: Mapping[str, Any],
) -> Setup:
    """Make one member's network, objective and batches of like lengths.

    Args:
        options: those of the member; their fields that a `ListenerConfig` has make the network.
        data: its parts.
        fit: gives the network mean and deviation of the training part.
        augmentation: what is done to frames in training.
        louder: see `Augmentation`.
        config: what else `load` needs.
    """
    (seed,), train, validation = options.seed, data.train, data.validation
    sizes = {"input_size": train.frames.size, "classes": len(data.labels)}
    network = ListenerConfig(**options.network(ListenerConfig) | sizes)
    model = Listener(network)
    fit(model)
    batches = FrameBatches(train.frames, train.labels, options.batch_size, seed)
    return Setup(
        FrameObjective(model, augmentation, louder),
        batches,
        FrameBatches(validation.frames, validation.labels, options.batch_size, seed=0, shuffle=False),
        config={"labels": data.labels, "network": dataclasses.asdict(network), **config},
        facts={"padding_share": batches.padding_share},
    )


def score_parts(
    options: RunOptions,
    data: Learned,
    test: Part,
    unit: str,
    trained: Sequence[Trained],
    baselines: Sequence[str],
    progress: Progress,
) -> Scored:
    """Score networks and baselines on the validation and the test part.

    Args:
        options: of the run.
        data: its parts.
        test: the test part, which becomes `Scored.extra`.
        unit: what sequences are called.
        trained: the networks.
        baselines: names of simple methods.
        progress: what is shown.
    """
    parts, known, notes = (data.train, data.validation, test), test.known(data.train, data.validation), list[str]()
    if known:
        notes.append(
            f"{known} test {unit} are in the training file too; the score on them says nothing about other data"
        )
    simple: list[Baseline] = []
    told: list[str] = []
    if options.baselines:
        simple, told = run_baselines(*parts, len(data.labels), baselines, lambda name: progress.say(f"baseline {name}"))
    members = many_to_one.score_members(
        trained,
        lambda model, part, shown: probabilities(model, part.frames, options.batch_size, shown),
        data.validation,
        test,
        progress,
    )
    rows = dict(zip(("train", "validation", "test"), (len(part.labels) for part in parts), strict=True))
    return Scored(members, simple, rows, [*notes, *told], extra=test)
