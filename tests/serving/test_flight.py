"""Flight: what is acknowledged is in the log once; each batch is answered with its own rows; errors tell no secrets."""

import json
import socket
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.flight as fl
import pytest

from onstream.errors import JobError, UnavailableError
from onstream.serving.access import Access
from onstream.serving.flight import FlightServer
from onstream.streams import Appended, Log
from tests.serving.flights import (
    Linear,
    certificates,
    connect,
    exchange,
    failure,
    put,
    replay,
    rows,
    served,
)

PREDICT = {"verb": "predict"}


@pytest.fixture
def server(tmp_path):
    with served(tmp_path) as server:
        yield server


@pytest.fixture
def client(server):
    with connect(server) as client:
        yield client


def stored(log):
    chunks = log.replay(follow=False).read({"log": log.first}, max_rows=10_000, stop=threading.Event())
    return [x for chunk in chunks for x in chunk.batch["x"].to_pylist()]


# ------------------------------------------------------------------------------------------------ put


def test_each_batch_is_acknowledged_with_its_offsets_once_it_is_in_the_log(server, client):
    assert put(client, rows(1, 2), rows(3)) == [
        {"first": 0, "end": 2, "sequence": None},
        {"first": 2, "end": 3, "sequence": None},
    ]
    assert stored(server.logs["events"]) == [1, 2, 3]


def test_a_repeated_batch_gets_the_first_acknowledgement_and_is_not_appended_again(server, client):
    numbered = [{"writer": "w", "sequence": 4}, {"writer": "w", "sequence": 9}]
    first = put(client, rows(1, 2), rows(3), metadata=numbered)
    assert first == [{"first": 0, "end": 2, "sequence": 4}, {"first": 2, "end": 3, "sequence": 9}]
    assert put(client, rows(1, 2), rows(3), metadata=numbered) == first
    assert stored(server.logs["events"]) == [1, 2, 3]
    error = failure(put, client, rows(8), metadata=numbered[:1])
    assert "other rows were appended" in str(error)
    assert stored(server.logs["events"]) == [1, 2, 3]


def test_the_path_names_the_log_and_is_needed_where_there_are_several(tmp_path):
    with served(tmp_path, logs=("a", "b")) as server, connect(server) as client:
        put(client, rows(1), path=["b"])
        assert (server.logs["a"].end, server.logs["b"].end) == (0, 1)
        assert "say which log" in str(failure(put, client, rows(1)))
        assert "there is no log 'c'" in str(failure(put, client, rows(1), path=["c"]))
        assert "2 parts" in str(failure(put, client, rows(1), path=["a", "b"]))


# -------------------------------------------------------------------------------------------- predict


def test_each_batch_of_a_stream_is_answered_with_its_predictions_and_their_version(client):
    answers = exchange(client, PREDICT, rows(1, 2), rows(3))
    assert [batch["y"].to_pylist() for batch, _ in answers] == [[9, 11], [13]]
    assert answers[1][0]["kind"].to_pylist() == [[3, 4, 5]]
    assert [facts for _, facts in answers] == [{"version": 7}, {"version": 7}]
    [(batch, facts)] = exchange(client, PREDICT | {"model": "linear", "version": 6}, rows(1))
    assert (batch["y"].to_pylist(), facts) == ([8], {"version": 6})


def test_clients_at_the_same_time_get_their_own_rows(client):
    wrong = []

    def ask(k):
        for i in range(30):
            x = 1000 * k + i
            [(batch, _)] = exchange(client, PREDICT, rows(*range(x, x + k)))
            if batch["y"].to_pylist() != [2 * v + 7 for v in range(x, x + k)]:
                wrong.append(x)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_model_that_does_not_answer_in_time_is_told_as_a_deadline(tmp_path):
    slow = Linear(hold=True)
    with served(tmp_path, models={"slow": slow}, timeout_s=60) as server, connect(server) as client:
        error = failure(exchange, client, PREDICT | {"timeout_s": 0.05}, rows(1))
        assert isinstance(error, fl.FlightTimedOutError)
        assert "no prediction within 0.05 s" in str(error)
        assert slow.held[0][0].cancelled()


# --------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("command", "batch", "kind", "text"),
    [
        (b"\xff\x00", rows(1), fl.FlightServerError, "must be a JSON object"),
        (b"[" * 60_000, rows(1), fl.FlightServerError, "must be a JSON object"),
        (b" " * 70_000, rows(1), fl.FlightServerError, "at most 65536 bytes"),
        ({"verb": "destroy"}, rows(1), fl.FlightServerError, "'predict' or 'learn'"),
        (PREDICT | {"modle": "linear"}, rows(1), fl.FlightServerError, "no field 'modle'"),
        (PREDICT | {"version": True}, rows(1), fl.FlightServerError, "whole number"),
        (PREDICT | {"timeout_s": -1}, rows(1), fl.FlightServerError, "seconds above 0"),
        (b'{"verb": "predict", "timeout_s": NaN}', rows(1), fl.FlightServerError, "seconds above 0"),
        (PREDICT | {"model": "other"}, rows(1), fl.FlightServerError, "there is no model 'other'"),
        (PREDICT | {"model": "x\ud800"}, rows(1), fl.FlightServerError, "printable"),
        (PREDICT | {"version": 5}, rows(1), fl.FlightServerError, "version 5 is not loaded"),
        (PREDICT, pa.record_batch({"z": [1]}), fl.FlightServerError, "column 'x' is missing"),
        ({"verb": "learn"}, rows(), fl.FlightServerError, "no rows"),
        ({"verb": "learn", "writer": "w"}, rows(1), fl.FlightServerError, "needs a sequence number"),
    ],
)
def test_a_request_that_is_wrong_is_told_why_and_nothing_is_done(server, client, command, batch, kind, text):
    error = failure(exchange, client, command, batch)
    assert type(error) is kind
    assert text in str(error)
    told = json.loads(error.extra_info)
    assert told["error"] in ("RequestError", "NotFoundError")
    assert text in told["message"]
    assert server.logs["events"].end == 0


def test_an_error_of_the_server_itself_is_logged_and_tells_clients_nothing(tmp_path, caplog):
    model = Linear()
    with served(tmp_path, models={"m": model}) as server, connect(server) as client:
        model.broken = OSError("cannot open /home/secret")
        error = failure(exchange, client, PREDICT, rows(1))
        assert isinstance(error, fl.FlightInternalError)
        assert "secret" not in str(error)
        assert "/home/secret" in caplog.text
        server.logs["events"].close()
        for call in (
            lambda: put(client, rows(1)),
            lambda: exchange(client, {"verb": "learn"}, rows(1)),
            lambda: replay(client).read_all(),
            lambda: list(client.do_action("health")),
            lambda: list(client.list_flights()),
            lambda: client.get_flight_info(fl.FlightDescriptor.for_path("events")),
        ):
            assert isinstance(failure(call), fl.FlightInternalError)
        assert client.get_schema(fl.FlightDescriptor.for_path("events")).schema == pa.schema([])


def test_a_long_text_with_any_character_still_reaches_the_client(tmp_path):
    model = Linear()
    model.broken = UnavailableError("\U0001f600\n\ud800" * 5_000)
    with served(tmp_path, models={"m": model}) as server, connect(server) as client:
        error = failure(exchange, client, PREDICT, rows(1))
        assert isinstance(error, fl.FlightUnavailableError)
        assert json.loads(error.extra_info)["message"].startswith("\U0001f600\n?")


def test_batches_that_were_answered_before_an_error_are_done_and_those_behind_it_are_not(server, client):
    stream, _ = client.do_put(fl.FlightDescriptor.for_path(), rows(1).schema)
    for x, said in ((1, b""), (2, b"no json"), (3, b"")):
        # The server may have ended the stream before the third is written.
        try:
            stream.write_with_metadata(rows(x), said)
        except pa.ArrowException:
            assert x == 3
    failure(stream.close)
    assert stored(server.logs["events"]) == [1]


@pytest.mark.parametrize(
    ("limits", "batch", "text"),
    [
        ({"max_rows": 3}, rows(1, 2, 3, 4), "at most 3 rows, got 4"),
        ({"max_bytes": 1_000}, rows(*range(200)), "at most 1000 bytes"),
        ({"max_columns": 2}, pa.record_batch({"a": [1], "b": [2], "c": [3]}), "at most 2 columns, got 3"),
        ({}, pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), "same name"),
        ({}, pa.RecordBatch.from_arrays([pa.nulls(1 << 21)], ["a"]), "at most 1048576 rows"),
    ],
)
def test_what_is_over_a_limit_is_refused_before_anything_is_done(tmp_path, limits, batch, text):
    with served(tmp_path, **limits) as server, connect(server) as client:
        assert text in str(failure(put, client, batch))
        assert text in str(failure(exchange, client, PREDICT, batch))
        assert server.logs["events"].end == 0


def test_data_that_break_their_own_format_are_refused(server, client):
    text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\x01\0\0\0"), pa.py_buffer(b"\xff")]
    )
    assert "not valid" in str(failure(put, client, pa.record_batch({"s": text})))
    assert server.logs["events"].end == 0


def test_limits_that_make_no_sense_and_addresses_in_use_are_refused(tmp_path, server):
    for wrong in (
        {"max_rows": 0},
        {"timeout_s": -1},
        {"max_streams": 0},
        {"port": server.port},
        {"host": "0.0.0.0"},
    ):
        with pytest.raises(JobError):
            FlightServer({}, {}, **{"port": 0} | wrong)


def test_a_stream_over_the_limit_is_refused_at_once_and_places_come_back(tmp_path):
    with served(tmp_path, max_streams=1) as server, connect(server) as client:
        put(client, rows(1))
        following = replay(client, follow=True)
        assert following.read_chunk().data.num_rows == 1
        error = failure(put, client, rows(2))
        assert isinstance(error, fl.FlightUnavailableError)
        assert "1 streams are open" in str(error)
        following.cancel()
        # The server notices within a look, some 20 ms.
        for _ in range(1_000):
            try:
                assert put(client, rows(3))[0]["end"] == 2
                break
            except fl.FlightUnavailableError:
                threading.Event().wait(0.01)
        assert stored(server.logs["events"]) == [1, 3]
        failure(replay, client, **{"from": 99})
        assert put(client, rows(4))[0]["end"] == 3


# --------------------------------------------------------------------------------------------- replay


def test_a_replay_gives_the_rows_from_any_offset_and_where_to_read_on(server, client):
    for k in range(3):
        put(client, rows(*range(4 * k, 4 * k + 4)))
    assert replay(client).read_all()["x"].to_pylist() == list(range(12))
    reader = replay(client, **{"from": 3, "to": 9, "log": "events"})
    found, ends = [], []
    for chunk in reader:
        found += chunk.data["x"].to_pylist()
        ends.append(json.loads(chunk.app_metadata.to_pybytes())["next"])
    assert found == list(range(3, 9))
    assert ends == [4, 8, 9]
    assert replay(client, **{"from": 12}).read_all().num_rows == 0
    assert replay(client, **{"from": 12}).schema.names == ["x"]
    assert replay(client, **{"from": 5, "to": 5, "follow": True}).read_all().num_rows == 0


@pytest.mark.parametrize(
    ("ticket", "text"),
    [
        (b"{", "must be a JSON object"),
        (b'{"from": 5}', "rows 0 to 2; it cannot be replayed from 5"),
        (b'{"from": -1}', "whole number"),
        (b'{"from": 2, "to": 1}', "must not be before"),
        (b'{"follow": 1}', "true or false"),
        (b'{"log": "other"}', "no log 'other'"),
    ],
)
def test_a_ticket_that_is_wrong_is_told_why(client, ticket, text):
    put(client, rows(1, 2))
    assert text in str(failure(client.do_get, fl.Ticket(ticket)))


def test_a_replay_that_follows_gives_what_is_appended_later(server, client):
    reader = None
    opened = threading.Event()
    found = []

    def follow():
        nonlocal reader
        reader = replay(client, follow=True, to=3)
        opened.set()
        found.extend(chunk.data["x"].to_pylist() for chunk in reader)

    following = threading.Thread(target=follow)
    following.start()
    for x in range(4):
        server.logs["events"].append(rows(x))
    following.join(30)
    assert found == [[0], [1], [2]]


def test_where_the_columns_change_a_replay_says_so(client):
    put(client, rows(1, 2))
    put(client, pa.record_batch({"other": ["a"]}))
    assert "from row 2 on the columns are others" in str(failure(replay(client).read_all))
    assert replay(client, to=2).read_all().num_rows == 2
    assert replay(client, **{"from": 2}).read_all().to_pylist() == [{"other": "a"}]


def test_messages_of_a_replay_stay_below_what_other_clients_take(server, client):
    batch = pa.record_batch({"x": pa.array(range(1_000_000), pa.float64())})
    server.logs["events"].append(batch)
    sizes = [chunk.data.nbytes for chunk in replay(client)]
    assert sum(sizes) == 8_000_000
    wide = pa.record_batch({"s": ["y" * 1_000] * 16_000})
    server.logs["events"].append(wide)
    sizes += [chunk.data.nbytes for chunk in replay(client, **{"from": 1_000_000})]
    assert max(sizes) < 4_000_000


# ------------------------------------------------------------------------------------------ what is there


def test_flights_are_the_logs_and_their_tickets_replay_them(tmp_path):
    with served(tmp_path, logs=("a", "b")) as server, connect(server) as client:
        put(client, rows(1, 2), path=["b"])
        found = {flight.descriptor.path[0]: flight for flight in client.list_flights()}
        assert {name: flight.total_records for name, flight in found.items()} == {b"a": 0, b"b": 2}
        assert [f.descriptor.path for f in client.list_flights(b"b")] == [[b"b"]]
        assert client.do_get(found[b"b"].endpoints[0].ticket).read_all()["x"].to_pylist() == [1, 2]
        assert client.get_flight_info(fl.FlightDescriptor.for_path("b")).schema == rows(1).schema
        assert client.get_schema(fl.FlightDescriptor.for_path("b")).schema == rows(1).schema
        assert client.get_schema(fl.FlightDescriptor.for_path("c")).schema == pa.schema([])
        assert "no log 'c'" in str(failure(client.get_flight_info, fl.FlightDescriptor.for_path("c")))
        assert "is a path" in str(failure(client.get_flight_info, fl.FlightDescriptor.for_command(b"b")))


def test_health_tells_of_models_and_logs(client):
    put(client, rows(1))
    [result] = client.do_action("health")
    assert json.loads(result.body.to_pybytes()) == {
        "live": True,
        "models": {"linear": {"ready": True, "reason": None, "versions": [7, 6]}},
        "logs": {"events": {"first": 0, "end": 1}},
    }
    assert [action.type for action in client.list_actions()] == ["health"]
    assert "only action" in str(failure(lambda: list(client.do_action("shutdown"))))


def test_every_batch_is_observed_with_its_status_and_rows(tmp_path):
    seen = []

    def observe(wire, name, status, seconds, num_rows):
        seen.append((wire, name, status, num_rows))
        assert seconds >= 0
        raise RuntimeError("an observer that fails changes no answer")

    with served(tmp_path, observe=observe) as server, connect(server) as client:
        put(client, rows(1, 2))
        exchange(client, PREDICT, rows(1), rows(2, 3))
        failure(exchange, client, PREDICT, pa.record_batch({"z": [1]}))
        failure(exchange, client, {"verb": "learn", "timeout_s": 0.01}, rows(1))
    assert seen == [
        ("flight_put", "events", "ok", 2),
        ("flight", "linear", "ok", 1),
        ("flight", "linear", "ok", 2),
        ("flight", "linear", "invalid", 0),
        ("flight_learn", "events", "deadline", 0),
    ]


# ---------------------------------------------------------------------------------------------- access


def bearer(token):
    return fl.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])


def test_without_a_valid_token_no_call_gets_in(tmp_path):
    with served(tmp_path, access=Access(tokens=["secret", "other"])) as server, connect(server) as client:
        for options in (fl.FlightCallOptions(), bearer("wrong"), bearer("")):
            for call in (
                lambda options=options: put(client, rows(1), options=options),
                lambda options=options: exchange(client, PREDICT, rows(1), options=options),
                lambda options=options: client.do_get(fl.Ticket(b"{}"), options).read_all(),
                lambda options=options: list(client.list_flights(options=options)),
                lambda options=options: list(client.do_action("health", options)),
            ):
                assert isinstance(failure(call), fl.FlightUnauthenticatedError)
            # This one call of pyarrow's client knows no errors of Flight.
            with pytest.raises(OSError, match="token is needed"):
                client.get_schema(fl.FlightDescriptor.for_path(), options)
        assert server.logs["events"].end == 0
        put(client, rows(1), options=bearer("other"))
        assert server.logs["events"].end == 1


def test_tls_and_client_certificates_are_asked_for(tmp_path):
    made = certificates(tmp_path)
    root = made["ca.pem"].read_bytes()
    own = {"cert_chain": made["client.pem"].read_bytes(), "private_key": made["client.key"].read_bytes()}
    tls = {"certificate": made["server.pem"], "key": made["server.key"]}
    with served(tmp_path, access=Access(**tls)) as server:
        assert server.address.startswith("grpc+tls://")
        with connect(server, tls_root_certs=root) as client:
            put(client, rows(1))
        with connect(server) as client:
            assert isinstance(failure(put, client, rows(1)), fl.FlightUnavailableError)
    # Client certificates are enough to be reached by others.
    mutual = Access(**tls, client_ca=made["ca.pem"])
    with served(tmp_path, access=mutual, host="0.0.0.0") as server:
        address = f"grpc+tls://127.0.0.1:{server.port}"
        with fl.connect(address, tls_root_certs=root) as client:
            assert isinstance(failure(put, client, rows(1)), fl.FlightUnavailableError)
        with fl.connect(address, tls_root_certs=root, **own) as client:
            assert put(client, rows(2)) == [{"first": 1, "end": 2, "sequence": None}]


# -------------------------------------------------------------------------------------------- shutdown


def within(seconds, call):
    """Return what a call returns; fail if that takes longer."""
    found = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, f"not done after {seconds} s"
    return found[0]


def test_shutdown_ends_streams_that_only_wait_for_their_client(tmp_path):
    with served(tmp_path) as server, connect(server) as client:
        put(client, rows(1))
        stream, reader = client.do_exchange(fl.FlightDescriptor.for_command(b'{"verb": "predict"}'))
        stream.begin(rows(1).schema)
        stream.write_batch(rows(1))
        assert reader.read_chunk().data.num_rows == 1
        silent, _ = client.do_put(fl.FlightDescriptor.for_path(), rows(1).schema)
        following = replay(client, follow=True)
        assert following.read_chunk().data.num_rows == 1
        # The bound is for batches in work, of which there is none: it is not waited for.
        assert within(60, lambda: server.shutdown(10_000)) is True
        for call in (reader.read_chunk, silent.close, following.read_chunk):
            assert isinstance(failure(call), fl.FlightUnavailableError)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", server.port)) != 0


def test_shutdown_lets_batches_in_work_finish_and_begins_no_new_ones(tmp_path):
    model = Linear(hold=True)
    with served(tmp_path, models={"m": model}) as server, connect(server) as client:
        answers = []
        asking = threading.Thread(target=lambda: answers.extend(exchange(client, PREDICT, rows(1))))
        asking.start()
        while not model.held:
            threading.Event().wait(0.001)
        ended = []
        ending = threading.Thread(target=lambda: ended.append(server.shutdown(60)))
        ending.start()
        assert server._streams.draining.wait(30)
        assert isinstance(failure(put, client, rows(1)), fl.FlightUnavailableError)
        assert not ended
        model.release()
        ending.join(30)
        asking.join(30)
        assert ended == [True]
        assert answers[0][0]["y"].to_pylist() == [9]
        assert server.logs["events"].end == 0


def test_shutdown_gives_up_work_that_takes_longer_than_its_bound(tmp_path):
    with served(tmp_path, timeout_s=3_600) as server, connect(server) as client:
        errors = []
        # Nobody trains on this log.
        learn = {"verb": "learn"}
        asking = threading.Thread(target=lambda: errors.append(failure(exchange, client, learn, rows(1))))
        asking.start()
        while server.logs["events"].end == 0:
            threading.Event().wait(0.001)
        assert within(60, lambda: server.shutdown(0.05)) is False
        asking.join(30)
        assert isinstance(errors[0], fl.FlightUnavailableError)
        assert server.logs["events"].append(rows(2)) == Appended(1, 2)


LOOK = "import sys; from onstream.streams import Log; log = Log(sys.argv[1]); print(log.end); log.close()"


def test_shutdown_that_cuts_streams_leaves_the_log_to_its_process(tmp_path):
    def seen_by_another():
        looked = subprocess.run(
            [sys.executable, "-c", LOOK, path], capture_output=True, text=True, check=True
        )
        return int(looked.stdout)

    path = tmp_path / "log.db"
    with Log(path) as log:
        with FlightServer({}, {"log": log}, port=0) as server, connect(server) as client:
            stream, acknowledged = client.do_put(fl.FlightDescriptor.for_path(), rows(1).schema)
            stream.write_batch(rows(1))
            assert acknowledged.read() is not None
            assert server.shutdown(30) is True
            assert isinstance(failure(stream.close), fl.FlightUnavailableError)
        # Whoever closes a log that nobody else has locked takes its newest pages away.
        assert seen_by_another() == 1
        assert log.append(rows(2)) == Appended(1, 2)
        assert seen_by_another() == 2
        assert log.append(rows(3)) == Appended(2, 3)
        assert seen_by_another() == 3
    assert seen_by_another() == 3
