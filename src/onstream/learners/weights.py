"""Parameters that were trained elsewhere: read from a file, matched by name and shape."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from onstream.errors import JobError

__all__ = ["read_weights", "take_weights"]

# Names that are listed in an error, of each kind.
_MOST_NAMES = 8


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a state dict from a file of safetensors, or from one that `torch.save` wrote.

    Raises
    ------
    JobError
        If there is no such file, or if it holds anything but tensors by name.

    Notes
    -----
    PyTorch's files are read with ``weights_only=True``: nothing of theirs is run.
    """
    if not path.is_file():
        raise JobError(f"warm start: there is no file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Bytes that are no file of PyTorch fail in whatever step of its unpickler they stop making sense.
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise JobError(
            f"warm start: {str(path)!r} is no state dict that can be read ({told}); write one with "
            f"torch.save(network.state_dict(), path) or safetensors.torch.save_file"
        ) from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        holds = (
            f"the keys {list(found)[:_MOST_NAMES]}" if isinstance(found, Mapping) else type(found).__name__
        )
        raise JobError(
            f"warm start: {str(path)!r} must hold tensors by name, got {holds}; write it with "
            f"torch.save(network.state_dict(), path)"
        )
    return dict(found)


def take_weights(
    network: nn.Module, weights: Mapping[str, Tensor], *, rename: Mapping[str, str], strict: bool, source: str
) -> list[str]:
    """Copy weights into a network whose parameters are all made.

    Parameters
    ----------
    network : nn.Module
    weights : mapping of str to Tensor
        By the names of the file; other types of numbers are converted.
    rename : mapping of str to str
        Beginnings of these names, and what to put there; the longest that fits counts.
    strict : bool
        Whether names and shapes must be those of the network.
    source : str
        What errors call the file.

    Returns
    -------
    list of str
        What did not fit, in words; always empty if `strict`.

    Raises
    ------
    JobError
        If `strict` and anything does not fit, or if nothing does.
    """
    given = {_renamed(name, rename): tensor for name, tensor in weights.items()}
    if len(given) < len(weights):
        names = [_renamed(name, rename) for name in weights]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise JobError(f"warm start: in {source!r}, several parameters would have one name: {_listed(twice)}")
    own = network.state_dict()
    missing = [name for name in own if name not in given]
    unknown = [name for name in given if name not in own]
    misfits = {n: t for n, t in given.items() if n in own and t.shape != own[n].shape}
    told = []
    if missing:
        told.append(f"missing in the file: {_listed(missing)}")
    if unknown:
        told.append(f"not in the network: {_listed(unknown)}")
    if misfits:
        shapes = [f"{n} is {tuple(own[n].shape)}, in the file {tuple(t.shape)}" for n, t in misfits.items()]
        told.append(f"of another shape: {_listed(shapes)}")
    fitting = [name for name in own if name in given and name not in misfits]
    if told and (strict or not fitting):
        raise JobError(
            f"warm start: the parameters in {source!r} are not those of the network; {'; '.join(told)}; rename "
            f"beginnings of names with rename={{...}}, or take what fits with strict=False"
        )
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(given[name])
    return [f"warm start from {source!r}: {text}" for text in told]


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    fitting = [before for before in rename if name.startswith(before)]
    if not fitting:
        return name
    before = max(fitting, key=len)
    return rename[before] + name[len(before) :]


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
