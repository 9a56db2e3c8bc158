"""What goes wrong between a broker and a stream is waited for, or told."""

import threading
import time

import pytest

from onstream import Kafka
from onstream.errors import StreamError
from onstream.streams.formats import Json
from onstream.streams.kafka.patience import Patience
from tests.streams.kafka.brokers import Proxy, free_port, mock_cluster, tansu
from tests.streams.streamed import read, rows_of

ROW = Json({"n": "int64"})


def lines(first: int, end: int, padding: int = 0) -> list[bytes]:
    return [b'{"n": %d%s}' % (n, b" " * padding) for n in range(first, end)]


@pytest.fixture(scope="module")
def shortened():
    """A topic of which retention has taken the beginning: a mock cluster keeps the newest 5 MiB of a partition."""
    with mock_cluster() as broker:
        broker.send("kept", lines(0, 12_000, padding=1_000))
        yield broker


def kept(shortened, **settings) -> Kafka:
    return Kafka("kept", servers=shortened.servers, format=ROW, partitions=[0], **{"end": "now"} | settings)


def test_positions_that_retention_has_passed_are_an_error_that_says_what_is_lost(shortened):
    oldest = read(kept(shortened))[0].next
    assert oldest > 5_000
    with pytest.raises(StreamError) as caught:
        read(kept(shortened), {"kept/0": 17})
    said = str(caught.value)
    assert (
        f"topic 'kept', partition 0: offset 17 is to be read next, but the oldest that is left is {oldest:,}"
        in said
    )
    assert f": {oldest - 17:,} are lost" in said
    assert "on_loss='skip'" in said


def test_reading_goes_on_with_what_is_left_where_the_user_said_so(shortened):
    oldest = read(kept(shortened))[0].next
    source = kept(shortened, on_loss="skip")
    chunks = read(source, {"kept/0": 17})
    assert [row["n"] for row in rows_of(chunks)] == list(range(oldest, 12_000))
    [reject] = [reject for chunk in chunks for reject in chunk.rejects]
    assert (reject.partition, reject.position) == ("kept/0", 17)
    assert reject.value == f"offsets 17 to {oldest - 1}"


def test_messages_that_retention_takes_while_they_are_waited_for_are_told_of_too(shortened):
    source = kept(
        shortened,
        end=None,
        on_loss="skip",
        config={"queued.min.messages": 1, "fetch.queue.backoff.ms": 10, "fetch.message.max.bytes": 1000},
    )
    stop = threading.Event()
    chunks = source.read({}, max_rows=10, stop=stop)
    next(chunks)
    got = [next(chunks)]
    shortened.send("kept", lines(12_000, 20_000, padding=1_000))
    while rows_of(got)[-1:] != [{"n": 19_999}]:
        got.append(next(chunks))
    stop.set()
    gaps = [reject for chunk in got for reject in chunk.rejects]
    assert gaps
    numbers = [row["n"] for row in rows_of(got)]
    lost = sum(int(r.value.split()[3]) - int(r.value.split()[1]) + 1 for r in gaps)
    assert len(numbers) + lost == 20_000 - numbers[0]
    assert any("messages lost" in note for note in source.notes)


def test_a_position_behind_the_end_of_a_partition_is_no_place_to_go_on_from(shortened):
    with pytest.raises(StreamError, match="offset 999,999 is to be read next, but the partition ends at"):
        read(kept(shortened, on_loss="skip"), {"kept/0": 999_999})


def test_connections_that_are_cut_cost_nothing():
    proxy = Proxy()
    with tansu(advertised_port=proxy.port) as (broker, port):
        proxy.target_port = port
        broker.create("cut", 1)
        broker.send("cut", lines(0, 100))
        source = Kafka("cut", servers=broker.servers, format=ROW, config={"reconnect.backoff.ms": 10})
        stop = threading.Event()
        chunks = source.read({}, max_rows=1000, stop=stop)
        got: list[int] = []
        for end in (100, 300, 700):
            while len(got) < end:
                got += [row["n"] for row in rows_of([next(chunks)])]
            proxy.cut()
            broker.send("cut", lines(end, end * 2 + 100))
        while len(got) < 1500:
            got += [row["n"] for row in rows_of([next(chunks)])]
        stop.set()
        assert list(chunks) == []
        assert got == list(range(1500))
        assert proxy.num_cut >= 3
        proxy.close()


def test_a_broker_that_does_not_answer_is_waited_for_for_a_while_only():
    servers = f"127.0.0.1:{free_port()}"
    source = Kafka("clicks", servers=servers, format=ROW, patience_s=0.3)
    with pytest.raises(StreamError, match=r"has not answered for 0\.3 s.*patience_s= says how long"):
        read(source)
    assert "waiting for up to 0.3 s" in source.notes[0]


def test_a_broker_that_comes_back_is_told_of_once():
    now, notes = [0.0], []
    patience = Patience("there:1", 10, notes.append, lambda: now[0])
    for now[0] in (1.0, 5.0, 10.9):
        patience.failed(FakeError("_ALL_BROKERS_DOWN"))
    patience.answered()
    patience.answered()
    assert len(notes) == 2
    assert notes[1] == "Kafka at 'there:1' answers again, after 9.9 s"
    now[0] = 100.0
    patience.failed(FakeError("_ALL_BROKERS_DOWN"))
    now[0] = 110.1
    with pytest.raises(StreamError, match="has not answered for 10 s"):
        patience.check()


@pytest.mark.parametrize(
    "name", ["TOPIC_AUTHORIZATION_FAILED", "_AUTHENTICATION", "GROUP_AUTHORIZATION_FAILED"]
)
def test_a_broker_that_refuses_is_not_waited_for(name):
    with pytest.raises(StreamError, match=rf"refuses: said \({name}\); look at security.protocol"):
        Patience("there:1", 10, print, time.monotonic).failed(FakeError(name))


def test_a_broker_that_knows_no_passwords_refuses_one(broker, topic):
    secret = {"security.protocol": "sasl_plaintext", "sasl.mechanisms": "PLAIN", "sasl.username": "me"}
    source = Kafka(topic, servers=broker.servers, format=ROW, config=secret | {"sasl.password": "hush"})
    with pytest.raises(StreamError, match=r"refuses: .*SASL"):
        read(source)


class FakeError:
    """As librdkafka tells of an error."""

    def __init__(self, name: str) -> None:
        self._name = name

    def name(self) -> str:
        return self._name

    def str(self) -> str:
        return "said"

    def fatal(self) -> bool:
        return False
