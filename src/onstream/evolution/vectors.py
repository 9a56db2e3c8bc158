"""A network's parameters as one vector, and a population of networks that act at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from onstream.contracts import Array, Rows
from onstream.errors import JobError

__all__ = ["Population", "Shapes", "arrays_of", "flatten", "shapes_of", "split"]

# Layers without parameters that treat every number alike, whatever the shape.
_ELEMENTWISE = (
    nn.ELU,
    nn.GELU,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.ReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
)


Shapes: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and shapes of parameters, in the order of their vector."""


def shapes_of(network: nn.Module) -> Shapes:
    """Return the parameters that evolution moves: float32 and not frozen."""
    return tuple(
        (name, tuple(p.shape))
        for name, p in network.named_parameters()
        if p.requires_grad and p.dtype == torch.float32
    )


def flatten(arrays: Mapping[str, Array], shapes: Shapes) -> Rows:
    """Return named parameters as one vector, float32 (n,)."""
    return np.concatenate([np.asarray(arrays[name], np.float32).ravel() for name, _ in shapes])


def split(vectors: Rows, shapes: Shapes) -> dict[str, Rows]:
    """Return vectors (*leading, n) as named parameters (*leading, *shape)."""
    found, at = {}, 0
    for name, shape in shapes:
        size = math.prod(shape)
        found[name] = vectors[..., at : at + size].reshape(*vectors.shape[:-1], *shape)
        at += size
    return found


def arrays_of(network: nn.Module) -> dict[str, Array]:
    """Return all parameters and buffers of a network by name."""
    return {name: np.array(tensor.detach().numpy()) for name, tensor in network.state_dict().items()}


class Population:
    """Networks of one form and many parameters, each asked for its own observation.

    Parameters
    ----------
    network : nn.Module
        ``forward(observations)`` takes (rows, *shape) and gives scores, (rows, outputs).
    vectors : ndarray of float32, shape (members, n)

    Notes
    -----
    All members are one call: of batched matrix products for a `Sequential` of linear and elementwise layers, of
    `torch.vmap` for anything else.
    """

    def __init__(self, network: nn.Module, vectors: Rows) -> None:
        self._network = network
        named = split(vectors, shapes_of(network))
        self._parameters = {name: torch.from_numpy(np.ascontiguousarray(p)) for name, p in named.items()}
        self._asked: npt.NDArray[np.int64] | None = None
        self._forward = _stacked(network) or _mapped(network)

    def scores(self, observations: Rows, members: npt.NDArray[np.int64]) -> Rows:
        """Return what each of some members makes of its observation, float32 (members, outputs).

        Parameters
        ----------
        observations : ndarray of float32, shape (members, *shape)
        members : ndarray of int64, shape (members,)

        Raises
        ------
        JobError
            If the network cannot be called so.
        """
        if self._asked is None or not np.array_equal(members, self._asked):
            self._asked = members.copy()
            at = torch.from_numpy(self._asked)
            self._chosen = {name: p[at] for name, p in self._parameters.items()}
        with torch.inference_mode(), _evaluating(self._network):
            try:
                found = self._forward(self._chosen, torch.from_numpy(observations))
            except (RuntimeError, TypeError, ValueError) as error:
                told = " ".join(str(error).split())[:500]
                raise JobError(
                    f"the network fails for observations of shape {observations.shape[1:]}: {told}"
                ) from error
        scores = found.float().numpy()
        return scores if scores.ndim > 1 else scores[:, None]


_Forward = Callable[[Mapping[str, Tensor], Tensor], Tensor]


def _mapped(network: nn.Module) -> _Forward:
    def one(parameters: Mapping[str, Tensor], observation: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(network, dict(parameters), (observation.unsqueeze(0),))
        return found.squeeze(0)

    mapped: _Forward = torch.vmap(one, randomness="different")
    return mapped


def _stacked(network: nn.Module) -> _Forward | None:
    """Return the same for layers of which batched products are simple; None for other networks."""
    if type(network) is not nn.Sequential:
        return None
    layers = list(network.named_children())
    # A layer that stands in two places is named once.
    if not layers or len(layers) < len(network):
        return None
    plain = all(
        type(layer) in _ELEMENTWISE
        or (type(layer) is nn.Linear and all(p.requires_grad for p in layer.parameters()))
        for _, layer in layers
    )
    if not plain or not isinstance(layers[0][1], nn.Linear):
        return None

    def forward(parameters: Mapping[str, Tensor], observations: Tensor) -> Tensor:
        values = observations.unsqueeze(1)
        for name, layer in layers:
            if isinstance(layer, nn.Linear):
                weights = parameters[f"{name}.weight"].transpose(1, 2)
                values = torch.bmm(values, weights)
                if (bias := parameters.get(f"{name}.bias")) is not None:
                    values += bias.unsqueeze(1)
            else:
                values = layer(values)
        return values.squeeze(1)

    # Observations with more sides than one go another way: a linear layer takes their last side alone.
    mapped = _mapped(network)
    return lambda parameters, x: forward(parameters, x) if x.dim() == 2 else mapped(parameters, x)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
