"""The protobuf messages of the Open Inference Protocol and of gRPC's health check, made when first imported.

They are made in a descriptor pool of their own: generated modules would clash, in one process, with those of
every other library of this protocol, and with runtimes other than the one they were generated for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from onstream.errors import MissingExtraError

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.message import DecodeError
except ImportError as error:
    raise MissingExtraError("gRPC needs protobuf: pip install 'onstream[serving]'") from error

__all__ = ["HEALTH", "INFERENCE", "DecodeError", "message"]

INFERENCE: Final = "inference"
HEALTH: Final = "grpc.health.v1"

# A field is "name number type"; "*" after the type repeats it, and other than scalar types are messages.
# Names and numbers: kserve/open-inference-protocol, specification/protocol/open_inference_grpc.proto; the last
# two choices of a parameter are Triton's.
_TENSOR = """name 1 string; datatype 2 string; shape 3 int64*; parameters 4 map;
             contents 5 inference.InferTensorContents"""
_METADATA = "name 1 string; datatype 2 string; shape 3 int64*"
_MESSAGES: Final[Mapping[str, Mapping[str, str]]] = {
    INFERENCE: {
        "ServerLiveRequest": "",
        "ServerLiveResponse": "live 1 bool",
        "ServerReadyRequest": "",
        "ServerReadyResponse": "ready 1 bool",
        "ModelReadyRequest": "name 1 string; version 2 string",
        "ModelReadyResponse": "ready 1 bool",
        "ServerMetadataRequest": "",
        "ServerMetadataResponse": "name 1 string; version 2 string; extensions 3 string*",
        "ModelMetadataRequest": "name 1 string; version 2 string",
        "ModelMetadataResponse": """name 1 string; versions 2 string*; platform 3 string;
            inputs 4 inference.ModelMetadataResponse.TensorMetadata*;
            outputs 5 inference.ModelMetadataResponse.TensorMetadata*""",
        "ModelMetadataResponse.TensorMetadata": _METADATA,
        "InferParameter": """bool_param 1 bool; int64_param 2 int64; string_param 3 string;
            double_param 4 double; uint64_param 5 uint64""",
        "InferTensorContents": """bool_contents 1 bool*; int_contents 2 int32*; int64_contents 3 int64*;
            uint_contents 4 uint32*; uint64_contents 5 uint64*; fp32_contents 6 float*;
            fp64_contents 7 double*; bytes_contents 8 bytes*""",
        "ModelInferRequest": """model_name 1 string; model_version 2 string; id 3 string; parameters 4 map;
            inputs 5 inference.ModelInferRequest.InferInputTensor*;
            outputs 6 inference.ModelInferRequest.InferRequestedOutputTensor*; raw_input_contents 7 bytes*""",
        "ModelInferRequest.InferInputTensor": _TENSOR,
        "ModelInferRequest.InferRequestedOutputTensor": "name 1 string; parameters 2 map",
        "ModelInferResponse": """model_name 1 string; model_version 2 string; id 3 string; parameters 4 map;
            outputs 5 inference.ModelInferResponse.InferOutputTensor*; raw_output_contents 6 bytes*""",
        "ModelInferResponse.InferOutputTensor": _TENSOR,
    },
    # The status is an enum there, and an enum is an int32 on the wire: 1 is serving, 2 is not serving.
    HEALTH: {
        "HealthCheckRequest": "service 1 string",
        "HealthCheckResponse": "status 1 int32",
    },
}

_ONE_OF = {"InferParameter": "parameter_choice"}


def message(package: str, name: str) -> Any:
    """Return the class of a message."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{package}.{name}"))


def _file(package: str, messages: Mapping[str, str]) -> bytes:
    """Return the serialized description of a package."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"onstream/{package}.proto", package=package, syntax="proto3"
    )
    made: dict[str, Any] = {}
    for name, fields in messages.items():
        outer, _, inner = name.rpartition(".")
        where = made[outer].nested_type if outer else file.message_type
        described = made[name] = where.add(name=inner)
        if name in _ONE_OF:
            described.oneof_decl.add(name=_ONE_OF[name])
        for line in fields.split(";") if fields else ():
            field_name, number, kind = line.split()
            field = described.field.add(name=field_name, number=int(number))
            _set_type(field, kind, f".{package}.{name}", described)
            if name in _ONE_OF:
                field.oneof_index = 0
    serialized: bytes = file.SerializeToString()
    return serialized


def _set_type(field: Any, kind: str, path: str, described: Any) -> None:
    if kind == "map":
        # A map is a repeated message of keys and values, declared within its message.
        entry = described.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        for name, number, of in (("key", 1, "string"), ("value", 2, "inference.InferParameter")):
            _set_type(entry.field.add(name=name, number=number), of, path, entry)
        kind = f"{path[1:]}.ParametersEntry*"
    repeated = kind.endswith("*")
    kind = kind.rstrip("*")
    field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
    if "." in kind:
        field.type = field.TYPE_MESSAGE
        field.type_name = f".{kind}"
    else:
        field.type = getattr(field, f"TYPE_{kind.upper()}")


_POOL = descriptor_pool.DescriptorPool()
for _package, _content in _MESSAGES.items():
    _POOL.AddSerializedFile(_file(_package, _content))
