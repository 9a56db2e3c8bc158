"""Rewards through Kafka, of a real broker."""

import numpy as np
import pytest

from onstream import Sampler
from onstream.errors import StreamError
from onstream.evolution import Updater, begin
from onstream.evolution.reward_rows import reward_rows
from onstream.evolution.reward_topic import RewardTopic
from tests.evolution.policies import point
from tests.evolution.test_updates import newest
from tests.streams.kafka.brokers import tansu


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
