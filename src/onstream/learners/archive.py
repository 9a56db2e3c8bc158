"""Archives of `torch.export`, read without running or unpickling anything of theirs.

`torch.export.load` unpickles sample inputs and constants, evaluates expressions and resolves any name under
`torch`: it is made for archives of one's own. This reader takes the graph's JSON and the raw bytes of constants,
and nothing but operators of PyTorch's tensor library, numbers, and lists of these.
"""

from __future__ import annotations

import io
import json
import math
import operator
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onstream.errors import CheckpointError
from onstream.learners.bfloat import has_bfloat16
from onstream.learners.graph import Graph, Region, Slot, Step

__all__ = ["Archive", "Input", "open_archive"]

_MEMBERS = re.compile(
    r"models/model\.json|data/(?:weights|constants)/model_(?:weights|constants)_config\.json|"
    r"data/weights/weight_\d+|data/constants/tensor_\d+|data/sample_inputs/model\.pt|"
    r"archive_format|archive_version|byteorder|\.data/(?:version|serialization_id)"
)
_SCHEMA = 8

# The numbers by which the archive names types of numbers, and orders of elements in memory.
_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_STRIDED = 7

# What is done with sizes.
_SCALAR_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in (
            *("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pos"),
            *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_"),
        )
    },
    "math.trunc": math.trunc,
    "torch.sym_float": float,
    "torch.sym_int": int,
    "torch.sym_ite": lambda condition, yes, no: yes if condition else no,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_not": operator.not_,
}
# Checks of what tracing took for granted; they give nothing.
_CHECKS = re.compile(r"torch\.ops\.aten\.(?:_assert_\w+|sym_constrain_range\w*)\.\w+")
_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)", re.ASCII)
# Internal operators trust their arguments, but for these, which networks are traced to.
_INTERNAL = re.compile(
    r"__i?(?:and|or|xor|lshift|rshift)__|_to_copy|_softmax|_log_softmax|_unsafe_view|_weight_norm|"
    r"_native_multi_head_attention|_transformer_encoder_layer_fwd|_shape_as_tensor"
)
# Storage is made by the operators that return tensors of numbers; others could reach beyond it, or into files.
_REFUSED = re.compile(r"from_file|.*sparse.*|.*nested.*|set_.*|resize.*|_?empty.*|new_empty.*")
# Arguments that are texts, and choose how an operator computes.
_TEXTS = re.compile("approximate|equation|indexing|mode|ord|padding_mode|reduce|rounding_mode|side")
_AUTOCAST = "torch.ops.higher_order.wrap_with_autocast"
_GRAD = "torch.ops.higher_order.wrap_with_set_grad_enabled"


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a graph: kind is "weight", "constant" or "user"; only the first two have names."""

    kind: str
    name: str = ""


@dataclass(frozen=True)
class Archive:
    """What an archive holds: how to compute, with which constants; weights are left out."""

    graph: Graph
    inputs: tuple[Input, ...]
    constants: dict[str, Tensor]


def open_archive(data: bytes | memoryview) -> Archive:
    """Read an archive that `torch.export.save` wrote.

    Raises
    ------
    CheckpointError
        If it is none, or holds anything beyond a graph of tensor operators and raw constants; the message
        names it.

    Notes
    -----
    Pickled members, such as sample inputs, are never read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read(_members(archive))
    except CheckpointError:
        raise
    except Exception as error:
        # Whatever a changed archive makes this reader stumble over is said to be the archive's fault.
        raise _refused(f"it cannot be read: {type(error).__name__}: {error}") from error


def _members(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """Return the members that matter, by name under the archive's one folder."""
    found = {}
    for info in archive.infolist():
        _, _, name = info.filename.partition("/")
        if not _MEMBERS.fullmatch(name) or name in found:
            raise _refused(f"it has the member {info.filename!r}, which has no place in it")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise _refused(f"its member {info.filename!r} is compressed")
        found[name] = b"" if name.endswith(".pt") else archive.read(info)
    for name, expected in (("archive_format", b"pt2"), ("byteorder", b"little")):
        if found[name] != expected:
            raise _refused(f"{name} is {found[name]!r}, expected {expected!r}")
    return found


def _read(members: Mapping[str, bytes]) -> Archive:
    model = json.loads(members["models/model.json"])
    if model["schema_version"]["major"] != _SCHEMA:
        raise _refused(
            f"its schema is {model['schema_version']}, this onstream reads {_SCHEMA}; use a newer one"
        )
    module = model["graph_module"]
    signature = module["signature"]
    for spec in signature["output_specs"]:
        if list(spec) != ["user_output"]:
            raise _refused(f"it has an output of kind {list(spec)}")
    config = json.loads(members["data/constants/model_constants_config.json"])["config"]
    inputs = tuple(_input(spec) for spec in signature["input_specs"])
    named = {entry.name for entry in inputs if entry.kind == "constant"}
    constants = {name: _constant(name, config[name], members) for name in named}
    return Archive(_graph(module["graph"]), inputs, constants)


def _input(spec: Mapping[str, Any]) -> Input:
    match spec:
        case {"parameter": {"parameter_name": str(name)}}:
            return Input("weight", name)
        case {"buffer": {"buffer_name": str(name), "persistent": bool(persistent)}}:
            return Input("weight" if persistent else "constant", name)
        case {"tensor_constant": {"tensor_constant_name": str(name)}}:
            return Input("constant", name)
        case {"user_input": {"arg": {"as_tensor": {"name": str()}}}}:
            return Input("user")
    raise _refused(f"it has an input of kind {list(spec)}")


def _constant(name: str, entry: Mapping[str, Any], members: Mapping[str, bytes]) -> Tensor:
    meta = entry["tensor_meta"]
    if entry["use_pickle"] or meta is None:
        raise _refused(f"its constant {name!r} is pickled")
    data = members[f"data/constants/{entry['path_name']}"]
    dtype = _DTYPES[meta["dtype"]]
    size = [number["as_int"] for number in meta["sizes"]]
    if not data:
        return torch.zeros(size, dtype=dtype)
    stride = [number["as_int"] for number in meta["strides"]]
    # A copy: constants own their memory.
    flat = torch.frombuffer(bytearray(data), dtype=dtype)
    return flat.as_strided(size, stride, meta["storage_offset"]["as_int"]).clone()


# -------------------------------------------------------------------------------------------- steps


def _graph(record: Mapping[str, Any]) -> Graph:
    places: dict[str, int] = {}
    for argument in record["inputs"]:
        _place(places, _name(argument))
    graph = Graph(len(places), 0)
    for node in record["nodes"]:
        if not _CHECKS.fullmatch(node["target"]):
            graph.steps.append(_step(node, places))
    graph.results = [places[_name(argument)] for argument in record["outputs"]]
    graph.size = len(places)
    graph.drop_unused()
    graph.drop_early()
    return graph


def _step(node: Mapping[str, Any], places: dict[str, int]) -> Step:
    target = node["target"]
    if target in (_AUTOCAST, _GRAD):
        return _region(node, places)
    function = _function(target)
    step = Step(target, function, [], {}, [], [], spread=False)
    keywords = []
    for argument in node["inputs"]:
        name, value = argument["name"], _argument(argument["arg"], places, f"{target}({argument['name']})")
        if (isinstance(value, str) and not _TEXTS.fullmatch(name)) or (
            name == "unsafe" and value is not False
        ):
            raise _refused(f"{target} with {name}={value!r}")
        if argument["kind"] == 2:
            step.kwargs[name] = value
            keywords.append(name)
        else:
            step.args.append(value)
            step.names.append(name)
    step.names += keywords
    outputs = node["outputs"]
    lists = [output["as_tensors"] for output in outputs if "as_tensors" in output]
    if lists and len(outputs) > 1:
        raise _refused(f"{target} gives lists among others")
    names = [item["name"] for item in lists[0]] if lists else [_name(output) for output in outputs]
    step.results = [_place(places, name) for name in names]
    step.spread = bool(lists) or len(outputs) > 1
    return step


def _region(node: Mapping[str, Any], places: dict[str, int]) -> Step:
    """Return the step of a part that runs in another type, or with gradients on or off: here they are off."""
    values = [argument["arg"] for argument in node["inputs"]]
    at = next(i for i, value in enumerate(values) if "as_graph" in value)
    options = [_argument(value, places, node["target"]) for value in values[:at]]
    graph = _graph(values[at]["as_graph"]["graph"])
    region = Region(graph)
    if node["target"] == _AUTOCAST:
        device, dtype, enabled, _ = options
        if device != "cpu" or not isinstance(enabled, bool):
            raise _refused(f"autocast for {device!r}")
        # Emulated, bfloat16 takes many times as long as float32, which differs from it by rounding alone.
        enabled = enabled and (dtype != torch.bfloat16 or has_bfloat16())
        # Every call casts anew: a cast of weights that are kept would outlive them.
        region = Region(
            graph,
            dtype if enabled else None,
            lambda: torch.autocast("cpu", dtype, enabled, cache_enabled=False),
        )
    elif options[0] is not False:
        raise _refused("gradients within the network")
    inputs = [_argument(value, places, node["target"]) for value in values[at + 1 :]]
    if len(inputs) != graph.num_inputs:
        raise _refused(f"a part takes {graph.num_inputs} values and is given {len(inputs)}")
    outputs = node["outputs"]
    names = [_name(output) for output in outputs]
    results = [_place(places, name) for name in names]
    return Step(
        node["target"], region, inputs, {}, [str(i) for i in range(len(inputs))], results, spread=True
    )


def _function(target: str) -> Callable[..., Any]:
    if target in _SCALAR_FUNCTIONS:
        return _SCALAR_FUNCTIONS[target]
    found = _ATEN.fullmatch(target)
    name = found[1] if found else ""
    if found and not _REFUSED.fullmatch(name) and (not name.startswith("_") or _INTERNAL.fullmatch(name)):
        overload = getattr(getattr(torch.ops.aten, name, None), found[2], None)
        if isinstance(overload, torch._ops.OpOverload):
            return overload
    raise _refused(f"the operator {target!r}, which is none of a network's tensor operators")


def _argument(value: Mapping[str, Any], places: Mapping[str, int], place: str) -> Any:
    [(kind, content)] = value.items()
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return Slot(places[content["name"]])
        case "as_tensors":
            return [Slot(places[item["name"]]) for item in content]
        case "as_optional_tensors":
            return [_argument(item, places, place) for item in content]
        case "as_int" | "as_bool" | "as_string" if isinstance(content, int | str):
            return content
        case "as_float":
            return float(content)
        case "as_ints" | "as_bools" if all(isinstance(item, int) for item in content):
            return list(content)
        case "as_floats":
            return [float(item) for item in content]
        case "as_sym_int" | "as_sym_float" | "as_sym_bool":
            return _size(content, places)
        case "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
            return [_size(item, places) for item in content]
        case "as_scalar_type":
            return _DTYPES[content]
        case "as_memory_format":
            return _MEMORY_FORMATS[content]
        case "as_layout" if content == _STRIDED:
            return torch.strided
        case "as_device" if content["type"] == "cpu":
            return torch.device("cpu")
    raise _refused(f"{place} has an argument of kind {kind!r}: {str(content)[:100]}")


def _size(content: Mapping[str, Any], places: Mapping[str, int]) -> Any:
    match content:
        case {"as_name": str(name)}:
            return Slot(places[name])
        case {"as_int": int(number)} | {"as_float": float(number)} | {"as_bool": int(number)}:
            return number
    raise _refused(f"a size is {content!r}")


def _name(output: Mapping[str, Any]) -> str:
    match output:
        case {"as_tensor": {"name": str(name)}}:
            return name
        case {"as_sym_int": {"as_name": str(name)}} | {"as_sym_float": {"as_name": str(name)}}:
            return name
        case {"as_sym_bool": {"as_name": str(name)}}:
            return name
    raise _refused(f"a value of kind {list(output)}")


def _place(places: dict[str, int], name: str) -> int:
    if name in places:
        raise _refused(f"two values called {name!r}")
    places[name] = len(places)
    return places[name]


def _refused(what: str) -> CheckpointError:
    return CheckpointError(
        f"the exported network cannot be used: {what}; the checkpoint was changed, or written by another "
        f"version: train with this one, or take another checkpoint"
    )
