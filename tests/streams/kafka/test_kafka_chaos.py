"""A trainer that is killed and cut off at random moments learns each message of its topic once."""

import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from onstream import Kafka
from onstream.streams.formats import Json
from tests.streams.kafka.brokers import Broker, Proxy, tansu
from tests.streams.kafka.jobs import TYPES, messages, run_until, running, sights, write_job
from tests.streams.streamed import read, rows_of

TOPIC = "impressions"
PARTITIONS = 4


class Feeder:
    """Appends impressions, each with an id of its own, until it is stopped."""

    def __init__(self, broker: Broker, pause_s: float) -> None:
        self._broker = broker
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0

    def __enter__(self) -> "Feeder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s):
            partition = self.sent // 100 % PARTITIONS
            self._broker.send(TOPIC, messages(self.sent, self.sent + 100), partition=partition)
            self.sent += 100


def chaos(tmp_path: Path, kills: int, cuts: int) -> None:
    draw = random.Random(11)
    proxy = Proxy()
    with tansu(advertised_port=proxy.port) as (broker, port):
        proxy.target_port = port
        broker.create(TOPIC, PARTITIONS)
        kafka = (
            f"servers={broker.servers!r}, format=Json({TYPES!r}), group='trainer', partitions='all', "
            "config={'reconnect.backoff.ms': 10}"
        )
        # The last run reads what is left, and ends.
        live = write_job(tmp_path / "live.py", TOPIC, kafka)
        last = write_job(tmp_path / "last.py", TOPIC, f"{kafka}, end='now'")
        last.write_text(last.read_text().replace(repr(str(tmp_path / "last")), repr(str(tmp_path / "live"))))
        cut_at = sorted(draw.sample(range(kills), cuts))
        with Feeder(broker, pause_s=0.02) as feeder:
            for run in range(kills):
                with running(live) as process:
                    assert process.stdout is not None
                    until_line, cut_line = draw.randint(2, 60), draw.randint(1, 30)
                    for line, text in enumerate(process.stdout, 1):
                        assert "Error" not in text, text
                        if line == cut_line and run in cut_at:
                            proxy.cut()
                        if line >= until_line:
                            break
                    process.send_signal(signal.SIGKILL)
                    process.stdout.read()
                assert process.returncode == -signal.SIGKILL
        assert run_until(last, None) == 0
        # From outside: what the topic holds, by a reader that knows nothing of the trainer.
        chunks = read(Kafka(TOPIC, servers=broker.servers, format=Json(TYPES), end="now"))
        there = Counter(row["id"] for row in rows_of(chunks))
        assert len(there) == feeder.sent
        assert sights(tmp_path / "live") == Counter(there.values())
        assert proxy.num_cut >= cuts
        proxy.close()


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_trainer_killed_thirty_times_and_cut_off_ten_times_learns_each_message_once(tmp_path):
    begin = time.monotonic()
    chaos(tmp_path, kills=30, cuts=10)
    print(f"30 kills and 10 cuts in {time.monotonic() - begin:.0f} s")
