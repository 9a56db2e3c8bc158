"""What is in a topic comes as rows, from wherever reading begins."""

import json
import threading
import time
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from onstream import Kafka
from onstream.errors import StreamError
from onstream.streams import EventPace, cut
from onstream.streams.chunks import inner_name
from onstream.streams.formats import Decoded, Json
from tests.streams.streamed import FakeClock, positions_of, read, rows_of

ROW = Json({"n": "int64"})


def lines(*numbers: int) -> list[bytes]:
    return [b'{"n": %d}' % n for n in numbers]


def column(chunks, name="n") -> list:
    return [row[name] for row in rows_of(chunks)]


def stream(broker, topic, **settings) -> Kafka:
    return Kafka(topic, servers=broker.servers, **{"format": ROW, "end": "now"} | settings)


def test_every_message_of_every_partition_is_a_row_in_order(broker, topic):
    broker.send(topic, lines(*range(500)), partition=0)
    broker.send(topic, lines(*range(500, 700)), partition=1)
    chunks = read(stream(broker, topic), max_rows=64)
    assert sorted(column(chunks)) == list(range(700))
    assert column([c for c in chunks if c.partition == f"{topic}/1"]) == list(range(500, 700))
    assert max(chunk.batch.num_rows for chunk in chunks) == 64
    assert positions_of(chunks) == {f"{topic}/0": 500, f"{topic}/1": 200}


def test_reading_goes_on_from_positions_whatever_start_says(broker, topic):
    broker.send(topic, lines(*range(20)))
    here = {f"{topic}/0": 15, f"{topic}/1": 0}
    assert column(read(stream(broker, topic, start="latest"), here)) == list(range(15, 20))


def test_where_reading_begins_is_a_position_even_where_nothing_comes(broker, topic):
    broker.send(topic, lines(1))
    chunks = read(stream(broker, topic, start="latest"))
    assert column(chunks) == []
    assert positions_of(chunks) == {f"{topic}/0": 1, f"{topic}/1": 0}
    [piece] = cut(iter(chunks), rows=10)
    assert piece.positions == {f"{topic}/0": 1, f"{topic}/1": 0}


def test_reading_begins_at_offsets_and_at_the_earliest_where_none_is_given(broker, topic):
    broker.send(topic, lines(1, 2, 3), partition=0)
    broker.send(topic, lines(4, 5), partition=1)
    chunks = read(stream(broker, topic, start={f"{topic}/0": 2}))
    assert sorted(column(chunks)) == [3, 4, 5]


@pytest.mark.parametrize(
    "start",
    ["2026-01-01T00:00:02", "2026-01-01T01:00:02+01:00", datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)],
)
def test_reading_begins_at_a_time(broker, topic, start):
    begin_ms = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
    for second in range(4):
        broker.send(topic, lines(second), timestamp=begin_ms + 1000 * second)
    assert column(read(stream(broker, topic, start=start))) == [2, 3]


def test_only_the_partitions_that_are_named_are_read(broker, topic):
    broker.send(topic, lines(1), partition=0)
    broker.send(topic, lines(2), partition=1)
    assert column(read(stream(broker, topic, partitions=[1]))) == [2]
    with pytest.raises(StreamError, match=r"has no partition 7; it has 2 partitions"):
        read(stream(broker, topic, partitions=[7]))


def test_several_topics_and_patterns_are_read_as_one(broker, topic):
    others = [broker.create(f"{topic}-views"), broker.create(f"{topic}-likes")]
    for i, name in enumerate([topic, *others]):
        broker.send(name, lines(i))
    assert sorted(column(read(stream(broker, others)))) == [1, 2]
    assert sorted(column(read(stream(broker, f"^{topic}-(views|l)")))) == [1, 2]
    assert column(read(stream(broker, f"^{topic}-nothing"))) == []


def test_a_topic_that_is_not_there_is_told_with_those_that_are(broker, topic):
    with pytest.raises(StreamError, match="has no topic 'clickz'"):
        read(stream(broker, "clickz"))
    with pytest.raises(StreamError, match=r"has no topic 'clickz'; there are .*'topic-"):
        read(stream(broker, [topic, "clickz"]))


def test_messages_without_a_value_are_no_rows_and_others_that_do_not_decode_are_rejects(broker, topic):
    broker.send(topic, [b'{"n": 1}', None, b"{", b'{"n": "x"}', b'{"n": 2}'])
    chunks = read(stream(broker, topic))
    assert column(chunks) == [1, 2]
    rejects = [(r.partition, r.position, r.reason) for chunk in chunks for r in chunk.rejects]
    assert rejects == [
        (f"{topic}/0", 2, "not valid JSON"),
        (f"{topic}/0", 3, "column 'n': not a whole number that fits int64"),
    ]
    assert positions_of(chunks)[f"{topic}/0"] == 5


def test_marks_of_transactions_are_passed_over_and_the_end_is_behind_them(broker, topic):
    for first in (0, 10):
        producer = broker.transactional(f"{topic}-{first}")
        producer.begin_transaction()
        for value in lines(first, first + 1):
            producer.produce(topic, value, partition=0)
        producer.commit_transaction(10)
    chunks = read(stream(broker, topic))
    assert column(chunks) == [0, 1, 10, 11]
    # Two messages and a mark, twice: what is behind the last mark is the end.
    assert positions_of(chunks)[f"{topic}/0"] == 6
    with_rows = [chunk for chunk in chunks if chunk.batch.num_rows]
    assert [end for chunk in with_rows for end in chunk.ends.tolist()] == [1, 2, 4, 5]


def test_key_headers_and_place_of_a_message_are_columns_where_they_are_asked_for(broker, topic):
    broker.send(topic, lines(1), partition=1, key=b"k", headers={"h": b"v"}, timestamp=1_700_000_000_123)
    broker.send(topic, [None, b'{"n": 2}'], partition=1)
    asked = ["_key", "_headers", "_timestamp", "_topic", "_partition", "_offset"]
    found = stream(broker, topic, metadata=asked)
    assert found.schema().names == ["n", *asked]
    first, second = rows_of(read(found))
    assert first["_timestamp"].timestamp() == 1_700_000_000.123
    assert (first["_key"], first["_headers"], first["_topic"]) == (b"k", [("h", b"v")], topic)
    assert (second["_key"], second["_headers"]) == (None, [])
    assert [(row["_partition"], row["_offset"]) for row in (first, second)] == [(1, 0), (1, 2)]


def test_only_selected_columns_are_decoded(broker, topic):
    broker.send(topic, [b'{"n": 1, "m": 2, "t": 5}'])
    whole = stream(
        broker, topic, format=Json({"n": "int64", "m": "int64", "t": "int64"}), metadata=["_offset"]
    )
    assert rows_of(read(whole.select(["m", "_offset"]))) == [{"m": 2, "_offset": 0}]
    assert rows_of(read(whole.select(["m"]))) == [{"m": 2}]
    paced = whole.replace(rate=EventPace("t"), clock=FakeClock())
    assert rows_of(read(paced.select(["m"]))) == [{"m": 2, "t": 5}]


class Numbers:
    """A message is so many rows as its text says: 0, 1, 2 and so on."""

    def decode(self, messages):
        counts = [int(m or 0) for m in messages]
        rows = [i for count in counts for i in range(count)]
        sources = [i for i, count in enumerate(counts) for _ in range(count)]
        return Decoded(pa.record_batch({"n": pa.array(rows, pa.int64())}), pa.array(sources).to_numpy())

    def schema(self):
        return pa.schema([("n", pa.int64())])

    def select(self, names):
        return self


@pytest.mark.parametrize(("size", "max_rows"), [(2, 100), (3, 2), (7, 3)])
def test_a_batch_may_end_inside_a_message_of_many_rows(broker, topic, size, max_rows):
    name = f"{topic}/0"
    broker.send(topic, [b"3", b"1", b"4", b"0", b"2", b"1"])
    source = stream(broker, topic, format=Numbers())
    rows = column(read(source))
    assert len(rows) == 11
    got, here = [], {}
    while True:
        # One batch, then anew from its positions, as after a kill.
        piece = next(
            iter(
                cut(source.read(here, max_rows=max_rows, stop=threading.Event()), rows=size, positions=here)
            ),
            None,
        )
        if piece is None or not piece.num_rows:
            break
        assert piece.num_rows == size or len(got) + piece.num_rows == 11
        got += [row["n"] for batch in piece.batches for row in batch.to_pylist()]
        here |= piece.positions
        assert got == rows[: len(got)]
    assert got == rows
    assert here[name] == 6
    assert here[inner_name(name)] == 0


def test_what_comes_while_reading_is_read_and_lag_is_told(broker, topic):
    broker.send(topic, lines(*range(10)))
    source = stream(broker, topic, end=None)
    assert source.live
    assert source.behind({}) is None
    stop = threading.Event()
    chunks = source.read({}, max_rows=100, stop=stop)
    got = []
    while len(got) < 10:
        got += column([next(chunks)])
    assert source.behind({}) == (10, "messages")
    assert source.behind({f"{topic}/0": 7}) == (3, "messages")
    broker.send(topic, lines(10), partition=1)
    while len(got) < 11:
        got += column([next(chunks)])
    stop.set()
    assert list(chunks) == []
    assert got == list(range(11))


def test_partitions_that_are_held_give_nothing_until_they_are_let_go(broker, topic):
    broker.send(topic, lines(*range(10)), partition=0)
    broker.send(topic, lines(*range(10, 20)), partition=1)
    source = stream(broker, topic)
    source.hold([f"{topic}/0"])
    chunks = source.read({}, max_rows=4, stop=threading.Event())
    first = []
    while len(first) < 10:
        first += column([next(chunks)])
    assert first == list(range(10, 20))
    source.hold([])
    assert column(list(chunks)) == list(range(10))


def stalled(source) -> None:
    """Wait until the queue is full."""
    end = time.monotonic() + 30
    while not source.stalled:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_held_partition_whose_messages_fill_the_queue_leaves_room_for_the_others(broker, topic):
    broker.send(topic, lines(*range(200)), partition=0)
    source = stream(broker, topic, end=None)
    stop = threading.Event()
    chunks = source.read({}, max_rows=10, stop=stop)
    got = []
    while not got:
        got += column([next(chunks)])
    stalled(source)
    source.hold([f"{topic}/0"])
    broker.send(topic, lines(1_000), partition=1)
    held = []
    while not held:
        held += column([next(chunks)])
    assert held == [1_000]
    source.hold([])
    while len(got) < 200:
        got += column([next(chunks)])
    stop.set()
    assert list(chunks) == []
    assert got == list(range(200))


def test_held_messages_beyond_their_bound_are_fetched_again_in_order(broker, topic):
    wide = broker.create(f"{topic}-wide", 3)
    source = stream(broker, wide, end=None)
    stop = threading.Event()
    chunks = source.read({}, max_rows=10, stop=stop)
    got = {0: [], 1: [], 2: []}

    def take(partition: int, num_rows: int) -> None:
        while len(got[partition]) < num_rows:
            chunk = next(chunks)
            got[int(chunk.partition[-1])] += column([chunk])

    for partition in (0, 1):
        # Twice a queue that is full of one partition.
        broker.send(wide, lines(*range(200)), partition=partition)
        take(partition, 1)
        stalled(source)
        source.hold([f"{wide}/{held}" for held in range(partition + 1)])
    for n in range(3):
        # Another is read while what is aside is more than may be there.
        broker.send(wide, lines(n), partition=2)
        take(2, n + 1)
    source.hold([])
    take(0, 200)
    take(1, 200)
    stop.set()
    assert list(chunks) == []
    assert got == {0: list(range(200)), 1: list(range(200)), 2: [0, 1, 2]}


def test_new_partitions_and_topics_are_read_from_their_first_message(broker, topic):
    source = stream(
        broker, f"^{topic}.*", end=None, start="latest", config={"topic.metadata.refresh.interval.ms": 50}
    )
    stop = threading.Event()
    chunks = source.read({}, max_rows=100, stop=stop)
    begun = {next(chunks).partition, next(chunks).partition}
    assert begun == {f"{topic}/0", f"{topic}/1"}
    later = broker.create(f"{topic}-later")
    broker.send(later, lines(7, 8))
    got = []
    while len(got) < 2:
        got += column([next(chunks)])
    stop.set()
    assert list(chunks) == []
    assert got == [7, 8]


def test_a_learner_that_stands_still_loses_nothing_and_is_not_put_out(broker, topic):
    broker.send(topic, lines(*range(5_000)), partition=0)
    source = stream(broker, topic, config={"max.poll.interval.ms": 6000, "session.timeout.ms": 6000})
    chunks = source.read({}, max_rows=100, stop=threading.Event())
    got = column([next(chunks), next(chunks)])
    stalled(source)
    got += column(list(chunks))
    assert got == list(range(5_000))


def test_types_are_inferred_from_many_messages_where_none_are_given(broker, topic):
    broker.send(topic, [json.dumps({"price": i if i < 900 else i + 0.5}).encode() for i in range(1000)])
    source = stream(broker, topic, format=None)
    chunks = read(source, max_rows=1000)
    assert sum(len(chunk.rejects) for chunk in chunks) == 0
    assert source.schema().field("price").type == pa.float64()
