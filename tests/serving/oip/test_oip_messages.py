"""The messages are byte for byte those of the protocol's standard client, and live beside them."""

import grpc
import pytest
from google.protobuf import descriptor_pool
from tritonclient.grpc import service_pb2

from onstream.serving.access import Access
from onstream.serving.oip.messages import HEALTH, INFERENCE, message
from onstream.serving.oip.rpc import rpc_handlers

NAMES = [
    f"{verb}{side}"
    for verb in ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
    for side in ("Request", "Response")
]


def fill(one, depth: int = 0) -> None:
    """Set every field of a message, with values that differ."""
    for number, field in enumerate(one.DESCRIPTOR.fields):
        if field.containing_oneof is not None and number != depth % 5:
            continue
        value = {"string": f"t{number}é", "bytes": bytes([number, 255]), "bool": True}
        kind = {9: "string", 12: "bytes", 8: "bool"}.get(field.type)
        if field.type == field.TYPE_MESSAGE and field.message_type.GetOptions().map_entry:
            for at in range(5):
                fill(getattr(one, field.name)[f"k{at}"], at)
        elif field.type == field.TYPE_MESSAGE:
            for at in range(2 if field.is_repeated else 1):
                fill(getattr(one, field.name).add() if field.is_repeated else getattr(one, field.name), at)
        elif field.is_repeated:
            getattr(one, field.name).extend([value.get(kind, number + 1)] * 3)
        else:
            setattr(one, field.name, value.get(kind, number + 1))


@pytest.mark.parametrize("name", NAMES)
def test_messages_are_byte_for_byte_those_of_tritonclient(name):
    theirs, ours = getattr(service_pb2, name)(), message(INFERENCE, name)()
    fill(ours)
    fill(theirs)
    as_bytes = ours.SerializeToString(deterministic=True)
    assert as_bytes == theirs.SerializeToString(deterministic=True)
    assert bool(as_bytes) == bool(ours.DESCRIPTOR.fields)
    assert type(theirs).FromString(as_bytes) == theirs
    assert type(ours).FromString(as_bytes) == ours
    assert str(ours) == str(theirs)


def test_fields_are_those_of_tritonclient_by_name_number_and_kind():
    def fields(descriptor):
        return {(f.name, f.number, f.type, f.is_repeated, f.is_packed) for f in descriptor.fields}

    for name in [*NAMES, "InferParameter", "InferTensorContents"]:
        ours = message(INFERENCE, name).DESCRIPTOR
        theirs = getattr(service_pb2, name).DESCRIPTOR
        assert fields(ours) == fields(theirs)
        for inner in ours.nested_types:
            assert fields(inner) == fields(theirs.nested_types_by_name[inner.name])


def test_the_pool_of_everybody_knows_nothing_of_them():
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName(f"{HEALTH}.HealthCheckRequest")


def test_a_class_is_the_same_each_time():
    assert message(INFERENCE, "ModelInferRequest") is message(INFERENCE, "ModelInferRequest")


def test_handlers_are_those_of_the_services():
    details = {"inference.GRPCInferenceService/ModelInfer", "grpc.health.v1.Health/Check"}
    found = {h.service_name() for h in rpc_handlers({}, Access()) if isinstance(h, grpc.ServiceRpcHandler)}
    assert found == {one.split("/")[0] for one in details}
