"""Getting a network out of the trainer: as a graph of tensor operators, which needs none of the user's code."""

from __future__ import annotations

import copy
import io
import random
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor, nn

from onstream.contracts import Array, Layout, State
from onstream.errors import JobError
from onstream.learners.bfloat import has_bfloat16
from onstream.learners.exported import FORMAT, ExportedNetwork, facts_of
from onstream.learners.inputs import Inputs, Part, parts_of
from onstream.learners.losses import activate
from onstream.learners.outputs import compute_outputs

__all__ = ["export_network"]

_MOST_ROWS = 1 << 20
# A size that no feature is likely to have by chance.
_EXAMPLE_ROWS = 5
_CHECKED_ROWS = (1, 2, 7)
# PyTorch has fused forms of some layers, which tracing does not see: they round in another order.
_TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}

# Where the user's code lies, and what it says: not for those who get the model.
_PRIVATE_META = ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node")


def export_network(network: nn.Module, layout: Layout, precision: str) -> State:
    """Return a network as a state that `ExportedNetwork` predicts from; the network itself is left as it is.

    Parameters
    ----------
    network : nn.Module
        With all its parameters made.
    layout : Layout
        Of its batches.
    precision : {"fp32", "bf16"}

    Returns
    -------
    State
        The archive under "archive", without the weights, which change from checkpoint to checkpoint; a
        description in the facts. Equal networks give equal bytes.

    Raises
    ------
    JobError
        If the network does what cannot be exported, or if the exported one predicts otherwise.

    Notes
    -----
    Takes about a second in a fresh process, most of it PyTorch's own imports. While it runs, no other thread may
    call a module: PyTorch watches all calls in the process. Global random states are as before.
    """
    with _undisturbed():
        try:
            own = _copied(network).eval()
            state = _export(_Predicting(own, layout, precision), layout, precision)
            _check(own, layout, precision, state)
        except Exception as error:
            told = " ".join(str(error).split())
            raise JobError(
                f"the network cannot be exported, so this model can be trained but not served: "
                f"{type(error).__name__}: {told[:500]}"
            ) from error
    return state


def _copied(network: nn.Module) -> nn.Module:
    """Return a copy of a network with what its modules keep of their last pass, such as a map of attention."""
    kept = (tensor for module in network.modules() for tensor in _tensors(vars(module)))
    # PyTorch does not copy a tensor that has a gradient to be traced back.
    return copy.deepcopy(network, {id(t): t.detach().clone() for t in kept if not t.is_leaf})


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors([*value.values()])
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _tensors(item)


class _Predicting(nn.Module):
    """From named tensors to predictions."""

    def __init__(self, network: nn.Module, layout: Layout, precision: str) -> None:
        super().__init__()
        self.network = network
        self._layout = layout
        self._precision = precision

    def forward(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        labels = self._layout.labels
        outputs = compute_outputs(self.network, Inputs(self._layout, parts), labels, self._precision)
        return {label.name: activate(label, outputs[label.name]) for label in labels}


def _export(predicting: _Predicting, layout: Layout, precision: str) -> State:
    parts = parts_of(layout)
    example = _draw(parts, _EXAMPLE_ROWS)
    rows = torch.export.Dim("rows", min=1, max=_MOST_ROWS)
    with torch.no_grad():
        program = torch.export.export(
            predicting, (example,), dynamic_shapes=({part.name: {0: rows} for part in parts},)
        )
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            for name in _PRIVATE_META:
                node.meta.pop(name, None)
    shapes = {
        name.removeprefix("network."): list(tensor.shape) for name, tensor in program.state_dict.items()
    }
    program.example_inputs = None
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    facts = {
        "kind": "torch",
        "format": FORMAT,
        **facts_of(parts, layout.labels),
        "precision": precision,
        "parameters": shapes,
        "onstream": version("onstream"),
        "torch": torch.__version__,
    }
    return State({"archive": np.frombuffer(_without_weights(buffer), np.uint8).copy()}, facts)


def _without_weights(archive: io.BytesIO) -> bytes:
    """Return an archive with its weights emptied, which read as zeros: every checkpoint has its own."""
    emptied = io.BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(emptied, "w") as new:
        for info in old.infolist():
            if info.filename.endswith("/serialization_id"):
                # A digest of all members, weights included; readers do without.
                continue
            is_weight = "/data/weights/" in info.filename and not info.filename.endswith(".json")
            # A name alone makes an entry of a fixed date, so that equal networks give equal bytes.
            new.writestr(zipfile.ZipInfo(info.filename), b"" if is_weight else old.read(info))
    return emptied.getvalue()


def _check(network: nn.Module, layout: Layout, precision: str, state: State) -> None:
    """Raise unless what was exported predicts as the network does, and neither changes the network."""
    before = {name: _array(tensor) for name, tensor in network.state_dict().items()}
    exported = ExportedNetwork(state, layout)
    exported.load(State({name: array.copy() for name, array in before.items()}))
    # What the archive computes in here.
    computing = precision if has_bfloat16() else "fp32"
    predicting = _Predicting(network, layout, computing)
    for num_rows in _CHECKED_ROWS:
        parts = _draw(parts_of(layout), num_rows)
        with torch.no_grad():
            expected = predicting({name: part.clone() for name, part in parts.items()})
        found = exported.predict_parts(parts)
        most = _TOLERANCE[computing]
        for name, values in expected.items():
            if not np.allclose(found[name], values.numpy(), rtol=most, atol=most, equal_nan=True):
                raise JobError(f"predictions of {name!r} differ for {num_rows} rows; is it drawn at random?")
    changed = [
        name for name, tensor in network.state_dict().items() if not _same(_array(tensor), before[name])
    ]
    if changed:
        raise JobError(f"predicting changes {', '.join(changed)}")


def _draw(parts: tuple[Part, ...], num_rows: int) -> dict[str, Tensor]:
    """Return parts of any values, the same each time."""
    generator = torch.Generator().manual_seed(num_rows)
    drawn = {}
    for part in parts:
        values = torch.randn((num_rows, *part.shape), generator=generator)
        drawn[part.name] = values > 0 if part.dtype == torch.bool else values
    return drawn


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep warnings to this block, and global random states as they are."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _array(tensor: Tensor) -> Array:
    return np.array(tensor.detach().numpy())


def _same(one: Array, other: Array) -> bool:
    return one.tobytes() == other.tobytes()
