"""What waits to be decoded is bounded, and what is held lies aside within a bound of its own."""

from confluent_kafka import Message

from onstream.streams.kafka.fetched import Ended, Fetched, Messages
from onstream.streams.kafka.offsets import Begin


def messages(partition: int, first: int, end: int, value: bytes = b"{}") -> list[Message]:
    return [Message(topic="t", partition=partition, offset=i, value=value) for i in range(first, end)]


def taken(fetched: Fetched) -> list:
    """Take all that may be taken: messages as (partition, offset), and the words between them."""
    found = []
    while (event := fetched.take(0)) is not None:
        found += (
            [(m.partition(), m.offset()) for m in event.items] if isinstance(event, Messages) else [event]
        )
    return found


def test_what_is_held_takes_no_room_from_the_others():
    fetched = Fetched(10)
    fetched.put(messages(0, 0, 20))
    assert fetched.wait_for_room(0) == 0
    fetched.hold({"t/0"})
    assert fetched.wait_for_room(0) == 10
    fetched.put(messages(0, 20, 25) + messages(1, 0, 5))
    assert fetched.wait_for_room(0) == 10
    assert taken(fetched) == [(1, i) for i in range(5)]
    fetched.hold(())
    assert fetched.wait_for_room(0) == 0
    assert taken(fetched) == [(0, i) for i in range(25)]


def test_what_was_held_comes_before_what_follows_it_whatever_else_is_held_meanwhile():
    fetched = Fetched(4)
    fetched.tell(Begin("t/0", 0))
    fetched.put(messages(0, 0, 2) + messages(1, 0, 2))
    fetched.hold({"t/0"})
    fetched.put(messages(0, 2, 4) + messages(1, 2, 4))
    fetched.hold({"t/1"})
    fetched.put(messages(1, 4, 5) + messages(0, 4, 5))
    assert taken(fetched) == [Begin("t/0", 0), *((0, i) for i in range(5))]
    fetched.hold(())
    assert taken(fetched) == [(1, i) for i in range(5)]


def test_what_is_held_beyond_its_bound_is_forgotten_from_one_message_on():
    fetched = Fetched(4)
    fetched.hold({"t/0", "t/1"})
    fetched.put(messages(0, 0, 6))
    assert fetched.shed() == {}
    fetched.put(messages(1, 0, 2))
    assert fetched.shed() == {}
    fetched.put(messages(1, 2, 3) + messages(0, 6, 7))
    # Without this, the marks behind a gap would be taken for its end.
    fetched.tell(Ended("t/1", 3))
    fetched.tell(Ended("t/0", 7))
    assert fetched.shed() == {"t/1": 2, "t/0": 6}
    assert fetched.shed() == {}
    fetched.hold(())
    assert taken(fetched) == [*((0, i) for i in range(6)), (1, 0), (1, 1)]


def test_what_is_held_is_bounded_in_bytes_too():
    large = bytes(40 << 20)
    fetched = Fetched(1000)
    fetched.hold({"t/0"})
    fetched.put(messages(0, 0, 1, large))
    fetched.put(messages(0, 1, 2, large))
    assert fetched.shed() == {"t/0": 1}


def test_a_closed_queue_has_no_room():
    fetched = Fetched(10)
    assert fetched.wait_for_room(0) == 10
    fetched.put(messages(0, 0, 20))
    fetched.close()
    assert fetched.wait_for_room(0) == 0
    assert fetched.take(0) is None
