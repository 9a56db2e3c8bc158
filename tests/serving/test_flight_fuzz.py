"""Whatever a stranger sends over Flight: an error in words or an answer, and the server goes on."""

import contextlib
import json

import grpc
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onstream.errors import OnstreamError
from onstream.serving.flight_wire import command, number, ticket
from tests.serving.flights import FORBIDDEN, connect, exchange, put, rows, served

Anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = ["verb", "model", "log", "writer", "version", "timeout_s", "sequence", "from", "to", "follow"]
Likely = st.sampled_from(
    ["predict", "learn", "linear", "events", "w", 0, 1, 7, 2**63, -1, 0.01, True, None, ""]
)
Objects = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), Likely | Anything, max_size=6)
Raw = st.one_of(
    st.binary(max_size=40),
    Objects.map(lambda facts: json.dumps(facts).encode()),
    st.builds(
        lambda verb, facts: json.dumps({"timeout_s": 0.01} | facts | {"verb": verb}).encode(),
        st.sampled_from(["predict", "learn"]),
        st.dictionaries(st.sampled_from(KEYS[1:]), Likely, max_size=2),
    ),
)
Columns = st.sampled_from(
    [
        pa.array([1.0, 2.0]),
        pa.array([1, None]),
        pa.array(["a", None]),
        pa.array([[1.0], []]),
        pa.nulls(2),
        pa.array([{"a": 1}, None]),
        pa.array(["a", "a"]).dictionary_encode(),
        pa.array([b"0123456789abcdef"] * 2, pa.uuid()),
    ]
)
Batches = st.lists(st.tuples(st.sampled_from(["x", "y", "", "\U0001f600"]), Columns), max_size=3).map(
    lambda columns: pa.RecordBatch.from_arrays([c for _, c in columns], [n for n, _ in columns])
)
STEADY = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    # Nothing learns here, so that every "learn" ends with the deadline.
    with served(tmp_path_factory.mktemp("fuzz"), timeout_s=0.02) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with connect(server) as client:
        yield client


def looked_at(call):
    """Make a call; an error must be one of Flight, in words that tell no secrets."""
    try:
        return call()
    except (fl.FlightError, pa.ArrowException) as error:
        text = str(error) + repr(getattr(error, "extra_info", b""))
        assert not [word for word in FORBIDDEN if word in text], text
        # An internal error would be a case that nobody thought of.
        assert not isinstance(error, fl.FlightInternalError), text
        return error


def still_answers(client):
    [(batch, _)] = exchange(client, {"verb": "predict"}, rows(1))
    assert batch["y"].to_pylist() == [9]


@STEADY
@given(Raw, Batches, Raw)
def test_any_exchange_ends_with_an_answer_or_an_error_in_words(client, raw, batch, metadata):
    looked_at(lambda: exchange(client, raw, batch, metadata=[metadata]))
    still_answers(client)


@STEADY
@given(st.lists(st.text(max_size=6), max_size=2) | st.just(["events"]), Batches, Raw)
def test_any_put_ends_with_an_acknowledgement_or_an_error_in_words(server, client, path, batch, metadata):
    end = server.logs["events"].end
    made = looked_at(lambda: put(client, batch, path=path, metadata=[metadata]))
    if isinstance(made, Exception):
        assert server.logs["events"].end == end
    still_answers(client)


@STEADY
@given(Raw)
def test_any_ticket_action_or_descriptor_ends_with_an_answer_or_an_error_in_words(client, raw):
    def replayed():
        reader = client.do_get(fl.Ticket(raw), fl.FlightCallOptions(timeout=0.05))
        return reader.read_chunk()

    for call in (
        replayed,
        lambda: list(client.do_action((raw[:20].hex(), raw))),
        lambda: list(client.list_flights(raw)),
        lambda: client.get_flight_info(fl.FlightDescriptor.for_command(raw)),
        lambda: client.get_schema(fl.FlightDescriptor.for_command(raw)),
    ):
        # A replay may have no rows.
        with contextlib.suppress(StopIteration):
            looked_at(call)
    still_answers(client)


@STEADY
@given(st.integers(0, 4), st.booleans())
def test_a_stream_that_is_left_in_the_middle_harms_nobody(client, step, cancel):
    stream, reader = client.do_exchange(fl.FlightDescriptor.for_command(b'{"verb": "predict"}'))
    if step >= 1:
        stream.begin(rows(1).schema)
    if step >= 2:
        stream.write_batch(rows(1))
    if step >= 3:
        stream.write_metadata(b"{}")
    if step >= 4:
        reader.read_chunk()
    if cancel:
        reader.cancel()
    else:
        looked_at(stream.close)
    still_answers(client)


def field(number, data):
    """A field of a protobuf message that holds bytes."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value):
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def flight_data(message, descriptor=b""):
    """An encapsulated IPC message as Flight's own message, as a client in any language writes it."""
    size = int.from_bytes(message[4:8], "little")
    about = field(1, descriptor) if descriptor else b""
    return about + field(2, message[8 : 8 + size]) + field(1000, message[8 + size :])


LISTS = pa.record_batch({"x": [1.0, None], "s": ["a", "bc"], "l": [[1], [2, 3]], "n": pa.nulls(2)})
PUT = b"\x08\x01"
EXCHANGE = b"\x08\x02" + field(2, b'{"verb": "predict"}')


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


def talk(channel, call, messages):
    stream = channel.stream_stream(f"/arrow.flight.protocol.FlightService/{call}")
    try:
        return list(stream(iter(messages), timeout=20))
    except grpc.RpcError as error:
        assert not [word for word in FORBIDDEN if word in error.details()], error.details()
        assert error.code() not in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
        return error


@pytest.mark.parametrize(("call", "descriptor"), [("DoPut", PUT), ("DoExchange", EXCHANGE)])
def test_unharmed_bytes_are_answered(channel, call, descriptor):
    messages = [
        flight_data(bytes(LISTS.schema.serialize()), descriptor),
        flight_data(bytes(LISTS.serialize())),
    ]
    assert isinstance(talk(channel, call, messages), list)


@STEADY
@given(
    st.sampled_from([("DoPut", PUT), ("DoExchange", EXCHANGE)]),
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 10_000), st.binary(min_size=1, max_size=8)),
        min_size=1,
        max_size=3,
    ),
    st.integers(0, 3),
)
def test_bytes_that_were_tampered_with_end_in_an_error_in_words(client, channel, call, changes, lost):
    verb, descriptor = call
    parts = [bytearray(LISTS.schema.serialize()), bytearray(LISTS.serialize())]
    for which, at, changed in changes:
        begin = 8 + at % (len(parts[which]) - 8)
        parts[which][begin : begin + len(changed)] = changed[: len(parts[which]) - begin]
    messages = [flight_data(bytes(parts[0]), descriptor), flight_data(bytes(parts[1]))]
    if lost == 1:
        messages = messages[1:]
    elif lost == 2:
        messages[1] = messages[1][: len(messages[1]) // 2]
    talk(channel, verb, messages)
    still_answers(client)


@given(Raw, st.text(max_size=5))
def test_words_of_requests_are_read_or_refused_and_never_anything_else(raw, writer):
    for read in (command, ticket, lambda raw: number(pa.py_buffer(raw), writer)):
        try:
            read(raw)
        except OnstreamError as error:
            assert len(str(error)) < 1_000
