"""Rewards through Kafka, of a real broker."""

import threading

import numpy as np
import pytest

from onstream import Sampler
from onstream.errors import StreamError
from onstream.evolution import Updater, begin
from onstream.evolution.reward_rows import reward_rows
from onstream.evolution.reward_topic import RewardTopic
from onstream.streams.kafka.client import new_producer
from tests.evolution.policies import point
from tests.evolution.test_updates import newest
from tests.streams.kafka.brokers import Proxy, free_port, tansu
from tests.streams.streamed import read, rows_of


@pytest.fixture
def topic():
    with tansu() as (broker, _):
        yield f"kafka://{broker.servers}/{broker.create('rewards', 2)}"


def test_rewards_of_a_topic_are_learned_from_once(tmp_path, topic):
    policy = point(rewards=topic)
    begin(policy, tmp_path)
    seen = []
    with Sampler(policy, tmp_path, seed=1) as sampler:
        for _ in range(3):
            sampler.sample(12)
            Updater(tmp_path).run(updated=seen.append)
        rewards = RewardTopic(topic)
        # What is not finite, and what is no reward, is passed over.
        rewards.append(reward_rows([1, 2], [sampler.version] * 2, [np.nan, np.inf]))
        # This broker tells the beginning of a partition's last batch for its end.
        assert 0 < rewards.behind(newest(tmp_path)[1].positions) <= 36 + 2 - 8 * len(seen)
        sampler.sample(8)
        Updater(tmp_path).run(updated=seen.append)
        rewards.close()
    assert len(seen) == 5
    model, manifest = newest(tmp_path)
    assert model.rewards == 40
    # How partitions mix is chance, so either of the two may lie after the last that counted. Whatever was read
    # counted or was dropped, and nothing was read twice.
    dropped = sum(progress.update.dropped for progress in seen)
    assert dropped <= 2
    assert sum(manifest.positions.values()) == 40 + dropped
    assert not (tmp_path / "rewards.db").exists()
    assert Updater(tmp_path).run() == 0


def test_a_broker_that_is_gone_is_told(topic, monkeypatch):
    monkeypatch.setattr("onstream.evolution.reward_topic._TIMEOUT_S", 0.2)
    rewards = RewardTopic("kafka://127.0.0.1:1/rewards")
    with pytest.raises(StreamError, match=r"topic 'rewards' at 127\.0\.0\.1:1 did not take 1 rewards"):
        rewards.append(reward_rows([1], [1], [1.0]))


def keys_in(rewards):
    return sorted(row["key"] for row in rows_of(read(rewards.stream(follow=False))))


def test_rewards_are_appended_from_any_thread(topic, monkeypatch):
    rewards, made = RewardTopic(topic), []

    def append(key):
        rewards.append(reward_rows([key], [1], [1.0]))

    second = threading.Thread(target=append, args=(2,))

    def making(*arguments):
        made.append(new_producer(*arguments))
        if len(made) == 1:
            second.start()
            # As long as the first append is not through, the second has to wait.
            second.join(0.2)
            assert second.is_alive()
        return made[-1]

    monkeypatch.setattr("onstream.evolution.reward_topic.new_producer", making)
    append(1)
    second.join()
    assert keys_in(rewards) == [1, 2]
    assert len(made) == 1
    rewards.close()


def test_rewards_that_were_not_taken_are_not_sent_later(monkeypatch):
    proxy = Proxy()
    with tansu(proxy.port) as (broker, port):
        proxy.target_port = port
        rewards = RewardTopic(f"kafka://{broker.servers}/{broker.create('rewards')}")
        rewards.append(reward_rows([1], [1], [1.0]))
        proxy.target_port = free_port()
        proxy.cut()
        with monkeypatch.context() as patch:
            patch.setattr("onstream.evolution.reward_topic._TIMEOUT_S", 0.2)
            with pytest.raises(StreamError, match="did not take 1 rewards"):
                rewards.append(reward_rows([2], [1], [1.0]))
        proxy.target_port = port
        rewards.append(reward_rows([3], [1], [1.0]))
        assert keys_in(rewards) == [1, 3]
        rewards.close()
    proxy.close()
