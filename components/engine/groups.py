"""Which weights are trained, and at what share of the learning rate: `training.parts` as the optimiser's parameter groups."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel

from components.families.adapters import family_of

if TYPE_CHECKING:
    from components.config.training import PartRates


def vision_language_model(model: nn.Module) -> Any:
    """The checkpoint's model inside a task's, or None where there is none."""
    return next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)


NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|[._])norm(?:$|\.)")  # in a parameter's name, in lower case


def decayed_names(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay applies to: all but biases and the weights of norms, known by their names or class."""
    norms = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.LayerNorm))
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return {name for name in names if not NOT_DECAYED.search(name.lower()) and not name.startswith(norms)}


def parameter_groups(
    model: nn.Module, rates: PartRates, *, decayed: set[str], learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups of the trained parameters by rate, each once with weight decay (names in `decayed`) and once without; none is empty.

    What lies outside the vision-language model, as a score head does, has rate 1. Parts of equal rate share their groups.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    factor = _factors(model, rates)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    # Every rate's decayed group stands before its other one: the order in which DeepSpeed lays weights out.
    for wanted in sorted({factor.get(parameter, 1.0) for _, parameter in trained}, reverse=True):
        for decays in (True, False):
            members = [p for name, p in trained if factor.get(p, 1.0) == wanted and (name in decayed) == decays]
            if members:
                groups[wanted, decays] = members
    return [
        {"params": members, "lr": learning_rate * rate, "weight_decay": weight_decay if decays else 0.0}
        for (rate, decays), members in groups.items()
    ]


def _factors(model: nn.Module, rates: PartRates) -> dict[nn.Parameter, float]:
    inner = vision_language_model(model)
    factors: dict[nn.Parameter, float] = {}
    if inner is None:
        return factors
    by_part = rates.model_dump()
    for part, members in family_of(inner.config).modules(inner).items():
        for member in members:
            for parameter in [member] if isinstance(member, nn.Parameter) else member.parameters():
                factors.setdefault(parameter, by_part[part])  # a tied head has been met in the language model
    return factors
