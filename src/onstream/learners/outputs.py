"""What a network gives for named tensors, by label, in the shape that its task asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from onstream.contracts import Label
from onstream.errors import JobError
from onstream.learners.inputs import Inputs

__all__ = ["compute_outputs"]


def compute_outputs(
    network: nn.Module, x: Inputs, labels: Sequence[Label], precision: str, also: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Return the logits or values of each label, float32: (rows,), or (rows, classes) for a class label.

    Outputs that are named in `also` are returned as well, (rows,), where the network gives them.

    Raises
    ------
    JobError
        If the network's outputs do not fit the labels.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found = network(x)
    if isinstance(found, Tensor):
        if len(labels) != 1:
            names = [label.name for label in labels]
            raise JobError(f"the network must return a dict of tensors by label name {names}, got one tensor")
        found = {labels[0].name: found}
    missing = [label.name for label in labels if label.name not in found]
    if missing:
        raise JobError(f"the network returned {sorted(found)}, the job also has the labels {missing}")
    extra = [Label(name, "real") for name in also if name in found]
    return {label.name: _shaped(label, found[label.name], x.num_rows) for label in (*labels, *extra)}


def _shaped(label: Label, outputs: Tensor, rows: int) -> Tensor:
    outputs = outputs.float()
    if label.task == "class":
        expected: tuple[int, ...] = (rows, label.classes)
    else:
        expected = (rows,)
        if outputs.shape == (rows, 1):
            outputs = outputs.squeeze(1)
    if tuple(outputs.shape) != expected:
        raise JobError(
            f"the network's output for {label.name!r} must be {expected}, got {tuple(outputs.shape)}"
        )
    return outputs
