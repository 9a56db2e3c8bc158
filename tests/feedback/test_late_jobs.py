"""Jobs on joins whose feedback comes late: policies reach learner, meter and served network, once named."""

import threading
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from onstream import (
    SGD,
    DelayedFeedback,
    ElapsedTimeSampling,
    Files,
    Id,
    Job,
    Join,
    Label,
    Sample,
    Torch,
    Wait,
)
from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.contracts import State
from onstream.errors import JobError
from onstream.feedback import policy_of
from onstream.feedback.policies import POLICIES

WINDOW_S = 600.0
ROWS = 12_000
LATE = [name for name in POLICIES if name != "when_known"]


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x.stack().sum((1, 2)) + self.bias


@dataclass(frozen=True)
class Shop:
    """Files of impressions and purchases, and what came of them."""

    shown: Files
    bought: Files
    item: np.ndarray
    answered: np.ndarray


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Return impressions of ten items, one a second, of which some sell well; purchases come minutes later."""
    folder = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(0)
    item = random.integers(0, 10, ROWS)
    time = np.arange(ROWS) + 1_600_000_000
    delay = random.exponential(120.0, ROWS).round(3)
    buys = random.random(ROWS) < np.where(item < 3, 0.5, 0.1)
    answered = buys & (delay <= WINDOW_S)
    pq.write_table(pa.table({"id": np.arange(ROWS), "at": time, "item": item}), folder / "shown.parquet")
    sold = pa.table({"id": np.flatnonzero(buys), "at": (time + delay)[buys]}).sort_by("at")
    pq.write_table(sold, folder / "bought.parquet")
    return Shop(Files(folder / "shown.parquet"), Files(folder / "bought.parquet"), item, answered)


def joined(shop, policy, **options):
    return Join(
        shop.shown, shop.bought, on="id", time="at", label="bought", window=WINDOW_S, policy=policy, **options
    )


def job(stream, directory, **options):
    learner = Torch(Weights, optimizer="sgd", lr=0.02, servable=options.pop("servable", False))
    features = [Id("item", dim=1), Label("bought")]
    return Job(stream, features, learner, directory, optimizer=SGD(lr=0.02), batch_size=32, **options)


def measured(policy):
    """Return a policy that measures every impression."""
    if policy == "wait":
        return Wait(measured=1)
    made = {"delayed_feedback": DelayedFeedback, "elapsed_time_sampling": ElapsedTimeSampling}.get(policy)
    return made(after=60, measured=1) if made else policy


@pytest.mark.parametrize("policy", LATE)
def test_a_policy_named_once_reaches_learner_and_meter(shop, tmp_path, policy):
    trained = job(joined(shop, measured(policy)), tmp_path, window=6_000)
    trainer = trained.trainer()
    assert trainer.features.layout.labels[0].policy.kind == policy
    report = trainer.run().progress.report.labels["bought"]
    # Each impression counts once; those at the end may have open windows where no row closes them.
    assert ROWS - 700 <= report.examples <= ROWS
    if policy in ("wait", "delayed_feedback"):
        assert report.examples == ROWS
    truth = shop.answered.mean()
    # Of the last impressions: those before tell of how learning begins.
    assert report.window["calibration"] == pytest.approx(1, abs=0.12)
    assert report.window["auc"] > 0.65
    found = trainer.predict(pa.record_batch({"item": np.arange(10)}))["bought"]
    assert found[:3].min() > found[3:].max()
    chances = [shop.answered[shop.item == i].mean() for i in range(10)]
    assert found.mean() == pytest.approx(np.mean(chances), abs=0.06)
    assert truth == pytest.approx(np.mean(chances), abs=0.02)


def test_rows_that_are_predicted_only_are_no_examples(shop, tmp_path):
    summary = job(joined(shop, Wait(measured=1)), tmp_path).train()
    assert summary.learned == summary.progress.examples == ROWS
    [*_, newest] = CheckpointLog(LocalStore(tmp_path)).versions()
    facts = CheckpointLog(LocalStore(tmp_path)).read(newest).facts
    assert (facts["examples"], facts["asked"]) == (ROWS, ROWS)


@pytest.mark.parametrize("policy", ["wait", "fake_negative_calibrated", "elapsed_time_sampling"])
def test_sampled_negatives_change_neither_predictions_nor_metrics(shop, tmp_path, policy):
    sampled = job(Sample(joined(shop, measured(policy)), "bought", negatives=0.3), tmp_path)
    trainer = sampled.trainer()
    assert trainer.features.layout.labels[0].kept == 0.3
    summary = trainer.run()
    report = summary.progress.report.labels["bought"]
    # Of those whose negatives are kept, all count.
    assert report.examples == pytest.approx(0.3 * ROWS, rel=0.1)
    assert report.overall["calibration"] == pytest.approx(1, abs=0.2)
    found = trainer.predict(pa.record_batch({"item": np.arange(10)}))["bought"]
    assert found.mean() == pytest.approx(shop.answered.mean(), abs=0.06)


def test_negatives_of_any_stream_can_be_left_out(shop, tmp_path):
    columns = {"item": shop.item, "bought": shop.answered}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    stream = Sample(Files(tmp_path / "rows.parquet"), "bought", negatives=0.2)
    trainer = job(stream, tmp_path / "model").trainer()
    summary = trainer.run()
    assert summary.learned < 0.5 * ROWS
    overall = summary.progress.report.labels["bought"].overall
    assert overall["calibration"] == pytest.approx(1, abs=0.1)
    found = trainer.predict(pa.record_batch({"item": np.arange(10)}))["bought"]
    assert found.mean() == pytest.approx(shop.answered.mean(), abs=0.05)


def test_a_job_goes_on_to_the_bit_with_predictions_that_wait(shop, tmp_path):
    policy = ElapsedTimeSampling(after=60, measured=0.5)
    whole = job(joined(shop, policy), tmp_path / "whole")
    whole.train()
    parts = tmp_path / "parts"
    stop = threading.Event()
    stopped = job(joined(shop, policy), parts)
    learner = StopsAfter(Weights, optimizer="sgd", lr=0.02, servable=False)
    learner.left, learner.stop = 150, stop
    summary = replace(stopped, learner=learner).train(stop=stop)
    # Some of the rows were predicted only.
    assert summary.stopped and 0 < summary.learned < 150 * 32
    job(joined(shop, policy), parts).train()
    expected, found = (_states(tmp_path / "whole"), _states(parts))
    for name in expected:
        assert found[name].tobytes() == expected[name].tobytes(), name


def test_what_is_served_needs_no_policy(shop, tmp_path):
    from onstream.serving.version import Copy

    made = job(joined(shop, "fake_negative_calibrated"), tmp_path, servable=True)
    trainer = made.trainer()
    trainer.run()
    rows = pa.record_batch({"item": np.arange(10)})
    with CheckpointLog(LocalStore(tmp_path)) as log:
        copy = Copy()
        copy.load(log, log.restore())
        found = copy.version.predict(rows)["bought"]
    np.testing.assert_allclose(found, trainer.predict(rows)["bought"], rtol=1e-6)


class Plain:
    """A learner that takes labels as they are."""

    def bind(self, layout, seed): ...
    def predict(self, batch, rows): ...
    def learn(self, batch, rows): ...
    def state(self):
        return State()

    def load(self, state): ...
    def export(self): ...


def test_a_learner_that_takes_labels_as_they_are_can_only_wait(shop, tmp_path):
    features = [Id("item", dim=1), Label("bought")]
    for policy in LATE:
        stream = joined(shop, policy)
        if policy == "wait":
            Job(stream, features, Plain(), tmp_path)
        else:
            with pytest.raises(JobError, match=f"Plain does not make up for the policy '{policy}'"):
                Job(stream, features, Plain(), tmp_path)
    with pytest.raises(JobError, match="Plain does not make up for negatives that were left out"):
        Job(Sample(joined(shop, "wait"), "bought", negatives=0.5), features, Plain(), tmp_path)


def test_only_labels_of_0_and_1_can_be_sampled(shop, tmp_path):
    stream = Sample(shop.shown, "bought", negatives=0.5)
    for label in (Label("bought", "real"), Label("bought", threshold=3)):
        with pytest.raises(JobError, match="negatives can be left out only where the column holds 0 and 1"):
            Job(stream, [Id("item", dim=1), label], Torch(Weights), tmp_path)


def test_a_window_is_the_policys(shop):
    assert joined(shop, "wait").policies["bought"] == policy_of("wait", WINDOW_S, 5.0)


class StopsAfter(Torch):
    """Learn some batches, then ask for the end."""

    def learn(self, batch, rows):
        self.left -= 1
        if self.left == 0:
            self.stop.set()
        return super().learn(batch, rows)


def _states(directory):
    with CheckpointLog(LocalStore(directory)) as log:
        manifest = log.restore()
        return {
            f"{part}/{name}": array
            for part in ("learner", "meter", "random")
            for name, array in log.states(manifest, part).arrays.items()
        }
