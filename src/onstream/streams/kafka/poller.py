"""The thread that polls: it fetches, takes partitions and gives them up, commits, and waits for brokers."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from onstream.contracts import Positions
from onstream.errors import StreamError
from onstream.streams.kafka.client import name_of, new_consumer, place_of, topic_partition
from onstream.streams.kafka.commits import Commits
from onstream.streams.kafka.discovery import partitions_of, starts_of
from onstream.streams.kafka.ends import Ends
from onstream.streams.kafka.fetched import Ended, Fetched
from onstream.streams.kafka.handover import Handover
from onstream.streams.kafka.offsets import Begin, begin_at, lost
from onstream.streams.kafka.patience import Patience

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, TopicPartition

    from onstream.streams.kafka.stream import Kafka

__all__ = ["Poller"]

T = TypeVar("T")

_POLL_S = 0.05
_CALL_S = 2.0
_JOIN_S = 15.0

# A learner that takes nothing for this long has its partitions paused. Pausing drops what librdkafka has fetched
# ahead, so a learner that is only slower than the broker must not cause it.
_STALL_S = 1.0

# Told of once; librdkafka itself mends them by trying again, or they are told of in another way.
_PASSING = ("_TRANSPORT", "_RESOLVE", "_TIMED_OUT", "_MSG_TIMED_OUT", "_TIMED_OUT_QUEUE", "_NOENT", "_STATE")


class Poller:
    """Fetch messages of a stream's partitions into a queue, in a thread of its own, however long learning takes.

    Parameters
    ----------
    stream : Kafka
        The settings.
    positions : Positions
        Where to read on.
    fetched : Fetched
    handover : Handover
    note : callable
        Receives sentences for the user.
    find : callable, optional
        Given partitions that are about to be read, returns positions before which all is done.

    Raises
    ------
    JobError, MissingExtraError
        As `new_consumer` says.
    """

    def __init__(
        self,
        stream: Kafka,
        positions: Positions,
        fetched: Fetched,
        handover: Handover,
        note: Callable[[str], None],
        find: Callable[[Sequence[str]], Positions] | None = None,
    ) -> None:
        self._stream = stream
        self._find = find
        self._known = {name: at for name, at in positions.items() if "#" not in name}
        self._fetched = fetched
        self._handover = handover
        self._note = note
        self._patience = Patience(stream.servers, stream.patience_s, note)
        self._call_s = min(_CALL_S, stream.patience_s)
        self._failure: BaseException | None = None
        self._closing = threading.Event()
        self._idle = threading.Event()
        self._own: set[str] = set()
        self._held: frozenset[str] = frozenset()
        self._paused: frozenset[str] = frozenset()
        self.stalled = False
        self._commits = Commits(stream.group, note)
        self._look_at = 0.0
        self.ends = Ends()
        self._begun = False
        self.member: object | None = None
        self.settled = False
        # Why the thread ended, told before what was fetched until then is taken.
        self.died_of: BaseException | None = None
        self._consumer = new_consumer(
            stream.servers,
            stream.group,
            stream.config,
            {
                "isolation.level": stream.isolation,
                "error_cb": self._heard,
                "on_commit": self._commits.heard,
                # Half a second is long for a message that could be learned now.
                "fetch.wait.max.ms": 100,
                # librdkafka waits a second once 100,000 messages lie there, which are read in a fraction of it.
                "fetch.queue.backoff.ms": 10,
                "fetch.message.max.bytes": 4 << 20,
                "topic.metadata.refresh.interval.ms": 60_000,
            },
        )
        every_ms = stream.config.get("topic.metadata.refresh.interval.ms", 60_000)
        self._look_every_s = float(every_ms) / 1000 if float(every_ms) > 0 else float("inf")
        self._thread = threading.Thread(target=self._run, name="onstream-kafka", daemon=True)
        self._thread.start()

    @property
    def own(self) -> frozenset[str]:
        """The partitions that are read."""
        return frozenset(self._own)

    def hold(self, partitions: Collection[str]) -> None:
        """Fetch nothing of these partitions, until the next call."""
        self._fetched.hold(partitions)
        self._held = frozenset(partitions)

    def idle(self) -> None:
        """Fetch no more, but keep the place in the group, so that what was given can be kept and committed."""
        self._idle.set()
        self._fetched.close()

    def close(self) -> None:
        """Commit what is durable, leave the group, and end the thread."""
        self._handover.release()
        self._closing.set()
        self._fetched.close()
        self._thread.join(_JOIN_S)

    # ---------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            self._begin()
            while not self._closing.is_set():
                self._commits.make(self._consumer, self._handover.durable(self._own), wait=False)
                self._look_for_partitions()
                if self._idle.is_set() or not (room := self._fetched.wait_for_room(_STALL_S)):
                    self._stall()
                else:
                    self._go_on()
                    self._fetch(room)
                self._shed()
                self._check()
        except BaseException as error:
            self.died_of = error
            self._fetched.fail(error)
        finally:
            self._finish()

    def _begin(self) -> None:
        """Take all partitions, or become a member of the group."""
        partitions = self._patiently(self._partitions)
        if partitions is None:
            return
        self._begun = True
        if self._stream.group is not None:
            self.member = self._consumer.consumer_group_metadata()
        if not self._stream.shared:
            self._take(partitions)
            self.settled = True
            return
        self._consumer.subscribe(
            list(self._stream.topics),
            on_assign=self._guarded(self._assigned),
            on_revoke=self._guarded(self._revoked),
            on_lost=self._guarded(self._lost),
        )

    def _fetch(self, room: int) -> None:
        first = self._consumer.poll(_POLL_S)
        self._raise_failure()
        if first is None:
            self.ends.look(self._consumer, self._own)
            if self._patience.tried:
                self._probe()
            return
        messages = [first, *self._rest(room - 1)]
        self._raise_failure()
        others = [message for message in messages if message.error() is not None]
        if others:
            messages = [message for message in messages if message.error() is None]
        self.ends.look(self._consumer, self._own)
        if messages:
            self._patience.answered()
            self._fetched.put(messages)
        for message in others:
            self._handle(message)

    def _handle(self, message: Message) -> None:
        """Deal with what comes in the place of a message."""
        error = message.error()
        assert error is not None
        name = error.name()
        topic, number, offset = message.topic(), message.partition(), message.offset()
        if topic is not None and number is not None and number >= 0 and offset is not None:
            partition = name_of(topic, number)
            if name == "_PARTITION_EOF":
                self._patience.answered()
                self._fetched.tell(Ended(partition, offset))
                return
            if name in ("_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"):
                self._out_of_range(partition, offset)
                return
        if name == "_MAX_POLL_EXCEEDED":
            self._note("Kafka: this process stood still for so long that its group went on without it")
        elif name not in _PASSING:
            self._patience.failed(error)

    def _out_of_range(self, partition: str, wanted: int) -> None:
        """Go on with the oldest message, if the user said so."""
        ends = self._patiently(
            lambda: self._consumer.get_watermark_offsets(topic_partition(partition), timeout=self._call_s)
        )
        if ends is None or partition not in self._own:
            return
        oldest, newest = ends
        topic, number = place_of(partition)
        if wanted > oldest:
            raise StreamError(
                f"topic {topic!r}, partition {number}: offset {wanted:,} is to be read next, but the partition ends "
                f"at {newest:,}: the topic was cut off, or made anew; begin anew in another directory"
            )
        reject = lost(partition, wanted, oldest, self._stream.on_loss)
        self._note(f"topic {topic!r}, partition {number}: {reject.reason}: {reject.value}")
        self._fetched.tell(Begin(partition, oldest, (reject,)))
        self._read_from(partition, oldest)

    def _rest(self, num_messages: int) -> list[Message]:
        """Take what has been fetched already.

        Every message is an object that Python's collector of cycles keeps a list of, and thousands at once make it
        look through all objects of the process again and again: that took more time than all the rest of reading.
        """
        collects = gc.isenabled()
        gc.disable()
        try:
            return self._consumer.consume(num_messages, 0)
        finally:
            if collects:
                gc.enable()

    def _stall(self) -> None:
        """Keep polling while nothing can be taken."""
        if not self.stalled:
            self._consumer.pause(self._consumer.assignment())
            self.stalled = True
        message = self._consumer.poll(_POLL_S)
        self._raise_failure()
        if message is not None:
            if message.error() is not None:
                self._handle(message)
            elif not self._idle.is_set():
                self._fetched.put([message])

    def _go_on(self) -> None:
        """Pause what is held, and nothing else."""
        wanted = self._held & self._own
        if not self.stalled and wanted == self._paused:
            return
        self._consumer.resume([topic_partition(name) for name in self._own - wanted])
        self._consumer.pause([topic_partition(name) for name in wanted])
        self._paused, self.stalled = frozenset(wanted), False

    def _shed(self) -> None:
        """Fetch again later what lies aside beyond its bound: it grows before its partitions are paused."""
        for partition, offset in self._fetched.shed().items():
            if partition in self._own:
                self._read_from(partition, offset)

    def _read_from(self, partition: str, offset: int) -> None:
        """Go on with another message of a partition."""
        self._consumer.incremental_unassign([topic_partition(partition)])
        self._consumer.incremental_assign([topic_partition(partition, offset)])
        if self.stalled or partition in self._held:
            self._consumer.pause([topic_partition(partition)])
            self._paused |= {partition}

    def _probe(self) -> None:
        """Ask a broker anything, to see whether it answers."""
        from confluent_kafka import KafkaException

        try:
            self._consumer.list_topics(timeout=_POLL_S)
        except KafkaException as error:
            self._patience.failed(error.args[0])
        else:
            self._patience.answered()

    def _check(self) -> None:
        self._raise_failure()
        self._patience.check()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    # ------------------------------------------------------------------------------------ partitions

    def _partitions(self) -> list[str]:
        return partitions_of(self._consumer, self._stream, [*self._own, *self._known], self._call_s)

    def _look_for_partitions(self) -> None:
        """Take partitions that are new, now and then; a group does so by itself."""
        if self._stream.shared or self._idle.is_set() or time.monotonic() < self._look_at:
            return
        if self._look_at:
            found = self._patiently(self._partitions) or []
            new = [name for name in found if name not in self._own]
            if new:
                self._take(new)
        self._look_at = time.monotonic() + self._look_every_s

    def _take(self, partitions: Sequence[str]) -> None:
        """Read these partitions too, from where they were left or else begin."""
        if not partitions:
            return
        known = dict(self._known)
        for name in partitions:
            if (given := self._handover.given(name)) is not None:
                known[name] = given
        if self._find is not None:
            for name, at in self._find(partitions).items():
                known[name] = max(at, known.get(name, 0))
        # Where a group assigns, others may have learned what lies behind the checkpoint. Else its offsets are of this
        # model alone: the checkpoint's come first, however old, and what it does not know of was not learned.
        if self._stream.shared or (self._stream.group is not None and not self._known):
            committed = self._patiently(lambda: self._commits.find(self._consumer, partitions, self._call_s))
            if committed is None:
                return
            for name, offset in committed.items():
                before = known.get(name)
                if before is not None and offset > before:
                    self._note(
                        f"group {self._stream.group!r} has gone on from {before:,} to {offset:,} in {name!r}: "
                        f"another member has learned what lies between, or this one before it went back to an "
                        f"older checkpoint"
                    )
                known[name] = max(offset, known.get(name, 0))
        later = self.settled and not self._stream.shared
        starts = starts_of(self._stream, partitions, known, later=later)
        begins = self._patiently(
            lambda: begin_at(
                self._consumer,
                partitions,
                known,
                starts,
                self._stream.on_loss,
                self._call_s,
            )
        )
        if begins is None:
            return
        for begin in begins:
            self._handover.begin(begin.partition, begin.offset)
            self._fetched.tell(begin)
            self._own.add(begin.partition)
        self._consumer.incremental_assign([topic_partition(b.partition, b.offset) for b in begins])
        if self.stalled:
            self._consumer.pause([topic_partition(b.partition) for b in begins])

    def _give_up(self, partitions: Sequence[str]) -> None:
        self._own -= set(partitions)
        self._paused -= set(partitions)
        self._consumer.incremental_unassign([topic_partition(name) for name in partitions])

    # ------------------------------------------------------------------------------------ the group

    def _assigned(self, partitions: list[str]) -> None:
        # Another with every rebalance: the broker refuses what an older one commits.
        self.member = self._consumer.consumer_group_metadata()
        self._take(partitions)
        self.settled = True

    def _revoked(self, partitions: list[str]) -> None:
        """Give partitions up once all that was given of them is durable and committed."""
        limit_s = self._stream.patience_s
        decoded = self._fetched.drop(partitions, limit_s)
        behind = self._handover.wait(partitions, limit_s if decoded else 0.0)
        for name, offsets in behind.items():
            self._note(
                f"{name!r} was given up before {offsets:,} of its offsets were kept: others learn them too"
            )
        self._commits.make(self._consumer, self._handover.durable(partitions), wait=True)
        self._give_up(partitions)

    def _lost(self, partitions: list[str]) -> None:
        """Forget partitions that the group has taken away unasked."""
        self._fetched.drop(partitions, 0.0)
        behind = self._handover.wait(partitions, 0.0)
        for name, offsets in behind.items():
            self._note(f"the group took {name!r} before {offsets:,} offsets were kept: others learn them too")
        self._give_up(partitions)

    def _guarded(self, call: Callable[[list[str]], None]) -> Callable[[Any, list[TopicPartition]], None]:
        """Return a callback whose errors end the reading; librdkafka would only print them."""

        def called(_: Any, partitions: list[TopicPartition]) -> None:
            try:
                call([name_of(p.topic, p.partition) for p in partitions])
            except BaseException as error:
                self._failure = error

        return called

    # ------------------------------------------------------------------------------------------ errors

    def _heard(self, error: KafkaError) -> None:
        """Take an error that concerns no partition. Called from within `poll`."""
        if error.name() in _PASSING:
            return
        try:
            self._patience.failed(error)
        except StreamError as failure:
            self._failure = failure

    def _patiently(self, call: Callable[[], T]) -> T | None:
        """Return what a call returns, as soon as a broker answers; None if reading ends before."""
        from confluent_kafka import KafkaException

        while not self._closing.is_set():
            try:
                found = call()
            except KafkaException as error:
                if not self._begun:
                    # Why nobody answers is told within `poll` alone; there is nothing yet that it could return.
                    self._consumer.poll(0)
                    self._raise_failure()
                self._patience.failed(error.args[0])
                self._closing.wait(_POLL_S)
            else:
                self._patience.answered()
                return found
        return None

    def _finish(self) -> None:
        """Leave: with what is durable committed, and with the newest ends known."""
        try:
            self.ends.look(self._consumer, self._own, at_once=True)
            if self._failure is None:
                self._commits.make(self._consumer, self._handover.durable(self._own), wait=True)
        finally:
            self._consumer.close()
