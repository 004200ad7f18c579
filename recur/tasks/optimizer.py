"""The step of training: the optimiser, the course of the learning rate, the average of the weights."""

import math

import torch
from torch import Tensor, nn

from recur.tasks.options import TrainingOptions


def make_optimizer(model: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """Return the optimiser that `options` names, over the parameters that are trained."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rate, decay = options.learning_rate, options.weight_decay
    match options.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, rate, weight_decay=decay, fused=True)
        case "adamw":
            return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, rate, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=decay)


def learning_rate(options: TrainingOptions, step: int, steps_per_epoch: int, halvings: int) -> float:
    """Return the learning rate of a step.

    Args:
        options: learning rate, schedule, warm-up and epochs.
        step: steps before this one, over all epochs.
        steps_per_epoch: so many.
        halvings: epochs without improvement so far, for the schedule "plateau".
    """
    warmup = options.warmup * steps_per_epoch
    if step < warmup:
        return options.learning_rate * (step + 1) / (math.floor(warmup) + 1)
    done = (step - warmup) / (options.epochs * steps_per_epoch - warmup)
    match options.schedule:
        case "constant":
            share = 1.0
        case "cosine":
            share = (1 + math.cos(math.pi * done)) / 2
        case "linear":
            share = 1 - done
        case "plateau":
            share = 0.5**halvings
    return options.learning_rate * share


class WeightAverage:
    """An exponential running average of a model's weights (Polyak & Juditsky 1992), to be swapped in for validation.

    Args:
        model: whose trained parameters are averaged.
        decay: weight of the past, in 0..1; smaller in the first steps, so that the start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        self.values = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, p in self._trained():
            self.values[name].lerp_(p, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and the average; a second call undoes it."""
        for name, p in self._trained():
            now = p.detach().clone()
            p.copy_(self.values[name])
            self.values[name] = now

    def state_dict(self) -> dict[str, Tensor | int | dict[str, Tensor]]:
        """Return what `load_state_dict` carries on from."""
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: dict[str, Tensor | int | dict[str, Tensor]]) -> None:
        """Carry on from `state_dict`."""
        steps, values = state["steps"], state["values"]
        assert isinstance(steps, int)
        assert isinstance(values, dict)
        self.steps, self.values = steps, values

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        for name, p in trained:
            self.values[name] = self.values[name].to(p.device)
        return trained
