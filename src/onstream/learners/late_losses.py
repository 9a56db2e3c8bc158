"""The losses of a network's labels whose feedback comes late, and the estimates of delays that they need."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from onstream.contracts import Batch, Field, Label, Layout
from onstream.feedback import Policy
from onstream.learners.inputs import Inputs
from onstream.learners.late import LATE_LOSSES, auxiliary_names, first_value, late_policy, make_late

__all__ = ["LateLosses"]


class LateLosses(nn.Module):
    """Apply the loss of its policy to every label whose feedback comes late.

    Some policies estimate more than the label: "LABEL.hazard", the log of how many feedbacks a window would bring
    (`DelayedFeedback`), or "LABEL.delayed" and "LABEL.fake", the logs of the chance that feedback comes late and
    that a negative is a fake one (`ElapsedTimeSampling`). A network may return them, by these names, one value a
    row. For what it does not return there is a linear head over its inputs: the rows of ids, pooled lists, numbers,
    and its own logit. No gradient flows from a head into the network or the rows.

    Parameters
    ----------
    layout : Layout

    Attributes
    ----------
    names : tuple of str
        Of all estimates.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self._layout = layout
        self._labels: dict[str, Label] = {}
        self._policies: dict[str, Policy] = {}
        for label in layout.labels:
            if (policy := late_policy(label)) is not None:
                self._labels[label.name], self._policies[label.name] = label, policy
        self.names = tuple(
            f"{n}.{a}" for n, policy in self._policies.items() for a in auxiliary_names(policy)
        )
        # By number: a module's name must not have dots, and labels may.
        self.heads = nn.ModuleDict()

    def __contains__(self, label: str) -> bool:
        """Return whether a label's loss is here."""
        return label in self._policies

    def make_heads(self, given: Mapping[str, Tensor]) -> None:
        """Make a head for every estimate that is not among the network's outputs."""
        width = 1 + sum(_width(field) for field in self._layout.fields)
        for at, name in enumerate(self.names):
            if name not in given:
                head = nn.Linear(width, 1)
                nn.init.zeros_(head.weight)
                nn.init.constant_(head.bias, first_value(name.rpartition(".")[2]))
                self.heads[str(at)] = head

    def forward(
        self, name: str, outputs: Mapping[str, Tensor], labels: Tensor, batch: Batch, x: Inputs
    ) -> Tensor:
        """Return the losses of one label, one a row.

        Parameters
        ----------
        name : str
        outputs : mapping of str to Tensor, shape (rows,)
            Of the network.
        labels : Tensor, shape (rows,)
            Any value where the label is absent; the loss there means nothing.
        batch : Batch
        x : Inputs
        """
        label, policy = self._labels[name], self._policies[name]
        late = make_late(label, batch.emissions[name], outputs[name], labels)
        for auxiliary in auxiliary_names(policy):
            late.auxiliary[auxiliary] = self._estimate(f"{name}.{auxiliary}", outputs, outputs[name], x)
        return LATE_LOSSES[type(policy)](late, policy, label.kept)

    def _estimate(self, name: str, outputs: Mapping[str, Tensor], logits: Tensor, x: Inputs) -> Tensor:
        if name in outputs:
            return outputs[name]
        head = self.heads[str(self.names.index(name))]
        estimate: Tensor = head(self._seen(logits, x)).squeeze(1)
        return estimate

    def _seen(self, logits: Tensor, x: Inputs) -> Tensor:
        """Return what heads see of a batch: (rows, width), without gradient."""
        parts = [logits.unsqueeze(1)]
        for field in self._layout.fields:
            if field.kind == "list" and field.pooling == "pad":
                mask = x.mask(field.name).unsqueeze(2)
                parts.append((x[field.name] * mask).sum(1) / mask.sum(1).clamp(min=1))
            elif _width(field):
                parts.append(x[field.name])
        return torch.cat(parts, 1).detach()


def _width(field: Field) -> int:
    # Tensors, such as images, are no inputs for a linear head.
    return 0 if field.kind == "tensor" else field.dim
