"""A trainer that reads Kafka learns each message once, however it ends."""

from onstream.checkpoints import CheckpointLog, LocalStore
from tests.streams.kafka.jobs import TYPES, messages, run_until, sights, write_job


def test_a_trainer_that_is_killed_learns_each_message_once(broker, topic, tmp_path):
    broker.send(topic, messages(0, 3_000), partition=0)
    broker.send(topic, messages(3_000, 5_000), partition=1)
    job = write_job(
        tmp_path / "job.py",
        topic,
        f"servers={broker.servers!r}, format=Json({TYPES!r}), end='now', group='lag-{topic}', partitions='all'",
    )
    assert run_until(job, 20) == -9
    assert run_until(job, None) == 0
    assert sights(tmp_path / "job") == {1: 5_000}
    newest = CheckpointLog(LocalStore(tmp_path / "job")).newest()
    assert newest.positions == {f"{topic}/0": 3_000, f"{topic}/1": 2_000}
    assert broker.committed(f"lag-{topic}", topic, 2) == [3_000, 2_000]


def test_a_trainer_that_is_killed_inside_a_message_of_many_rows_learns_each_row_once(broker, topic, tmp_path):
    for first in range(0, 5_000, 500):
        rows = "".join(f"{i},{i % 3 == 0:d}\n" for i in range(first, first + 500))
        broker.send(topic, [rows.encode()], partition=first // 500 % 2)
    job = write_job(
        tmp_path / "job.py",
        topic,
        f"servers={broker.servers!r}, end='now', format=Csv({TYPES!r}, column_names=('id', 'click'))",
    )
    assert run_until(job, 15) == -9
    newest = CheckpointLog(LocalStore(tmp_path / "job")).newest()
    assert any(at for name, at in newest.positions.items() if "#" in name)
    assert run_until(job, None) == 0
    assert sights(tmp_path / "job") == {1: 5_000}
