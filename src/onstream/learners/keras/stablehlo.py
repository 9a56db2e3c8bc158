"""Programs of JAX, kept as StableHLO: written by the trainer, checked and run by those who serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onstream.contracts import Array
from onstream.errors import CheckpointError, MissingExtraError
from onstream.learners.inputs import Part
from onstream.learners.keras.predictor import ProgramPredictor

try:
    import jax
    from jax import export
    from jax._src.interpreters.mlir import make_ir_context
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo
except ImportError as error:
    raise MissingExtraError(f"this model was exported by JAX ({error}): pip install jax") from error

__all__ = ["StableHloPredictor", "export_stablehlo"]

_STRUCTURE = ("builtin.module", "func.func", "func.return", "func.call")
# What reaches beyond the program, or calls code by its name.
_REFUSED = ("custom_call", "infeed", "outfeed", "send", "recv", "composite")
# Checks that the number of rows is what the program was made for.
_HARMLESS_CALLS = ("shape_assertion",)


def export_stablehlo(
    predict: Callable[[list[Any], list[Any]], list[Any]],
    weights: Sequence[tuple[tuple[int, ...], str]],
    parts: Sequence[Part],
) -> bytes:
    """Return a function as the bytes of a program for any number of rows.

    Parameters
    ----------
    predict : callable
        From weights and parts to predictions.
    weights : sequence of (shape, dtype)
    parts : sequence of Part
    """
    (rows,) = export.symbolic_shape("rows")
    values = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in weights]
    batch = [
        jax.ShapeDtypeStruct((rows, *part.shape), str(part.dtype).removeprefix("torch.")) for part in parts
    ]
    made = export.export(jax.jit(predict, keep_unused=True), platforms=["cpu"])(values, batch)
    # As a text a module has no places of the user's code, which are not for those who get the model.
    with make_ir_context():
        text = ir.Module.parse(made.mlir_module()).operation.get_asm(enable_debug_info=False)
        module = stablehlo.serialize_portable_artifact(
            ir.Module.parse(text),
            stablehlo.get_version_from_compatibility_requirement(
                stablehlo.StablehloCompatibilityRequirement.WEEK_4
            ),
        )
    return bytes(replace(made, mlir_module_serialized=module).serialize())


class StableHloPredictor(ProgramPredictor):
    """Predict from a program of JAX.

    Notes
    -----
    Every operation of the program is looked at before it is compiled: those of StableHLO that compute tensors from
    tensors are taken, calls of code outside the program are refused. It is compiled for each number of rows; if
    rows do not see each other, requests are filled up to a power of two.
    """

    def _open(self, data: bytes, weights: Sequence[tuple[tuple[int, ...], str]]) -> None:
        opened = export.deserialize(bytearray(data))
        _check(opened.mlir_module())
        taken = [(tuple(x.shape), str(x.dtype)) for x in opened.in_avals[: len(weights)]]
        if taken != list(weights) or len(opened.in_avals) != len(weights) + len(self._part_names):
            raise CheckpointError(
                "the exported program does not fit its description; the checkpoint was changed"
            )
        self._cpu = jax.devices("cpu")[0]
        self._program = jax.jit(opened.call)

    def _kept(self, weights: list[Array]) -> list[Any]:
        # Copies, since what is there may be aligned so that JAX would take it as it lies.
        return [jax.device_put(np.array(array), self._cpu) for array in weights]

    def _run(self, parts: list[Array], rows: int) -> list[Array]:
        more = max(8, 1 << (rows - 1).bit_length()) - rows if self._pads else 0
        if more:
            parts = [np.concatenate([part, np.repeat(part[-1:], more, axis=0)]) for part in parts]
        with jax.default_device(self._cpu):
            found = self._program(self._weights, parts)
        return [np.array(values[:rows]) for values in found]


def _check(module: str) -> None:
    """Raise unless a module holds pure operations of StableHLO alone."""
    refused: list[str] = []

    def look(operation: Any) -> Any:
        name = operation.name
        dialect, _, kind = name.partition(".")
        known = name in _STRUCTURE or (dialect in ("stablehlo", "chlo") and kind not in _REFUSED)
        if name == "stablehlo.custom_call":
            target = ir.StringAttr(operation.attributes["call_target_name"]).value
            known, name = target in _HARMLESS_CALLS, f"{name} of {target!r}"
        if not known:
            refused.append(name)
        return ir.WalkResult.ADVANCE

    with make_ir_context():
        ir.Module.parse(module).operation.walk(look)
    if refused:
        raise CheckpointError(f"the exported program holds {refused[0]}, which has no place in it")
