"""Streams that are made of streams pass on what the inner one says, and their settings can be set."""

import pytest

from onstream import Cache, Feedback, Id, Job, Join, Kafka, Label, Log, Sample, Torch
from onstream.errors import JobError
from onstream.feedback import labelling_of
from tests.jobs.networks import Sum


@pytest.fixture
def logs(tmp_path):
    return [Log(tmp_path / f"{name}.db", follow=False) for name in ("shown", "clicked")]


@pytest.fixture
def join(logs):
    return Join(*logs, on="id", time="at", label="click", window="1h", policy="fake_negative_calibrated")


def job(stream, folder):
    return Job(stream, [Id("id", dim=1), Label("click")], Torch(Sum), folder / "model")


def test_a_cache_has_the_labels_of_its_stream(join, tmp_path):
    sampled = Sample(join, "click", negatives=0.25)
    for stream in (join, sampled):
        assert labelling_of(Cache(stream)) == labelling_of(stream)
    [label] = job(Cache(sampled), tmp_path).encoder().layout.labels
    assert (label.policy.kind, label.kept) == ("fake_negative_calibrated", 0.25)
    assert labelling_of(Cache(join.impressions)) == labelling_of(join.impressions)


def test_a_look_at_a_stream_of_topics_joins_no_group():
    shown, clicked = (Kafka(name, group="g", partitions="all") for name in ("shown", "clicked"))
    join = Join(shown, clicked, on="id", time="at", label="click", window="1h").peek()
    assert (join.impressions.group, join.feedback[0].stream.group) == (None, None)
    topic = Kafka("shown", group="g")
    assert Cache(topic).peek().stream.group is None
    assert Sample(topic, "click", negatives=0.5).peek().stream.group is None


def test_a_join_refuses_topics_of_which_a_group_may_give_it_a_part(join):
    with pytest.raises(JobError, match=r"impressions: .*group 'g'.*partitions='all'"):
        Join(Kafka("shown", group="g"), join.impressions, on="id", time="at", label="click", window="1h")
    with pytest.raises(JobError, match="click: "):
        Join(join.impressions, Kafka("clicked", group="g"), on="id", time="at", label="click", window="1h")


def test_settings_of_a_join_are_set(join, tmp_path):
    changed = job(join, tmp_path).replace({"stream.window": "2h", "stream.policy": "wait"})
    assert changed.stream.feedback[0].window == "2h"
    assert changed.stream.policies["click"].kind == "wait"
    with pytest.raises(JobError, match=r"no setting 'stream.windows'; the settings of Join: .*lateness"):
        changed.replace({"stream.windows": "2h"})
    with pytest.raises(JobError, match="'long'"):
        changed.replace({"stream.window": "long"})


def test_settings_of_inputs_of_a_join_are_set(tmp_path):
    join = Join(Kafka("shown"), Kafka("clicked"), on="id", time="at", label="click", window="1h")
    changed = job(join, tmp_path).replace({"stream.impressions.end": "now", "stream.feedback.end": "now"})
    assert (changed.stream.impressions.end, changed.stream.feedback[0].stream.end) == ("now", "now")


def test_settings_of_a_join_of_several_labels_are_set(logs, tmp_path):
    shown, clicked = logs
    join = Join(shown, [Feedback(clicked, "click", "1h"), Feedback(clicked, "buy", "2h")], on="id", time="at")
    changed = job(join, tmp_path).replace({"stream.lateness": "1m"}).stream
    assert changed.lateness == "1m"
    assert [each.label for each in changed.feedback] == ["click", "buy"]


def test_settings_of_caches_and_samples_are_set(join, tmp_path):
    made = job(Cache(Sample(join, "click", negatives=0.5)), tmp_path)
    changed = made.replace(
        {"stream.passes": "2", "stream.stream.negatives": "0.1", "stream.stream.stream.drift": "1h"}
    )
    stream = changed.stream
    assert (stream.passes, stream.stream.negatives, stream.stream.stream.drift) == (2, 0.1, "1h")


def test_the_description_of_a_job_tells_of_all_its_streams(join, tmp_path):
    told = job(Cache(join, passes=2), tmp_path).describe()["stream"]
    assert (told["kind"], told["passes"]) == ("Cache", 2)
    told = job(join, tmp_path).describe()["stream"]
    assert (told["on"], told["window"], told["policy"]) == ("id", "1h", "fake_negative_calibrated")
