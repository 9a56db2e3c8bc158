"""Choosing while it learns, what is kept of it, and what a candidate would have earned."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from torch import nn

from onstream import Client, Files, Id, Job, Label, Log, Torch
from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.choice import ChoiceLog, Chooser, Choosing, EpsilonGreedy, RowCounts, Softmax, Thompson, compare
from onstream.choice.records import KEY, read_choices
from onstream.errors import JobError, RequestError, ShapeError
from onstream.serving.off_policy import estimate
from tests.choice.bandit import ITEMS, RATES, Shop, candidates
from tests.serving.clicks import Serving


class Sum(nn.Module):
    def forward(self, x):
        return x.stack().sum((1, 2))


UNIFORM = RATES.mean()
BEST = RATES.max(axis=1).mean()


def item_counts(shop, rows):
    if shop.replica is None:
        return np.zeros(rows.num_rows)
    return RowCounts(shop.model, "item").of(rows.column("item")) / len(RATES)


@pytest.mark.parametrize(
    ("policy", "counts"),
    [(EpsilonGreedy(0.15), None), (Thompson(draws=200), item_counts)],
    ids=["epsilon-greedy", "thompson"],
)
def test_choosing_while_it_learns_beats_chance(tmp_path, policy, counts):
    shop = Shop(tmp_path, Chooser(policy), counts=counts)
    earned = [shop.round(250) for _ in range(6)]
    assert np.mean(earned[-2:]) > UNIFORM + 0.5 * (BEST - UNIFORM)
    assert np.mean(earned) > UNIFORM * 1.3
    # Its own log tells as much as the rounds did, of itself and of what was best.
    found = estimate(shop.model, tmp_path / "choices.db", confidence=0.999)
    assert found.logged.low < np.mean(earned) < found.logged.high
    assert found.logged.requests == 1_500
    assert found.dr.value > found.logged.value


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A shop that chose by chance for a while, and so knows what others would have earned."""
    made = Shop(tmp_path_factory.mktemp("shop"), Chooser(EpsilonGreedy(1.0)), seed=5)
    for _ in range(3):
        made.round(400)
    return made


def test_an_estimate_finds_what_the_candidate_earns(shop):
    found = estimate(shop.model, shop.folder / "choices.db", policy="greedy", confidence=0.999)
    with shop.replica.reading() as version:
        best = [int(version.predict(candidates(user))["click"].argmax()) for user in range(len(RATES))]
    truth = RATES[np.arange(len(RATES)), best].mean()
    for one in (found.ips, found.snips, found.dr):
        assert one.low < truth < one.high
    assert found.dr.high - found.dr.low < found.ips.high - found.ips.low
    assert found.logged.low < UNIFORM < found.logged.high
    assert found.unsupported == 0
    assert found.unrewarded == pytest.approx(1_200 * (1 - UNIFORM), abs=100)


def test_the_command_says_the_same(shop, onstream):
    log = str(shop.folder / "choices.db")
    said = json.loads(
        onstream.fine("estimate", str(shop.model), "--log", log, "--json", "--policy", "softmax=0.1")
    )
    found = estimate(shop.model, log, policy="softmax=0.1")
    assert said["dr"]["value"] == found.dr.value
    out = onstream.fine("estimate", str(shop.model), "--log", log)
    assert all(word in out for word in ("logged", "ips", "snips", "dr", "1,200", "have no reward"))
    out = onstream.refused("estimate", str(shop.model), "--log", "nowhere.db")
    assert "there is no log 'nowhere.db'" in out


def test_thompson_can_be_estimated_by_counts(shop):
    with pytest.raises(JobError, match="give the Id"):
        estimate(shop.model, shop.folder / "choices.db", policy="thompson")
    found = estimate(shop.model, shop.folder / "choices.db", policy="thompson", count="item")
    assert found.dr.value > UNIFORM
    with pytest.raises(JobError, match="thompson alone counts examples"):
        estimate(shop.model, shop.folder / "choices.db", policy="greedy", count="item")


class FakeMoving:
    """A model directory whose tag "judged" moves on to the next version at every look."""

    def __init__(self, directory):
        self.directory = directory
        self.versions = CheckpointLog(LocalStore(directory)).versions()

    def __fspath__(self):
        CheckpointLog(LocalStore(self.directory)).tag("judged", self.versions.pop(0))
        return str(self.directory)


def test_an_estimate_counts_by_the_version_that_predicts(shop, tmp_path):
    model, log = shutil.copytree(shop.model, tmp_path / "model"), shop.folder / "choices.db"
    moving = FakeMoving(model)
    first, *_ = moving.versions
    found = estimate(moving, log, tag="judged", policy="thompson", count="item")
    assert len(moving.versions) < 2
    assert found == estimate(model, log, tag=str(first), policy="thompson", count="item")


def test_counts_are_of_the_column_that_the_id_reads(tmp_path):
    (tmp_path / "clicks.csv").write_text("item_id,click\n" + "1,0\n2,1\n" * 50)
    features = [Id("item", 1, column="item_id"), Label("click")]
    Job(Files(tmp_path / "clicks.csv"), features, Torch(Sum), tmp_path / "model").train()
    with Log(tmp_path / "c.db", follow=False) as log:
        rows = pa.RecordBatch.from_pydict({"item_id": [1, 2, 3]})
        keys = ["a"] * 3
        ChoiceLog(log).append(rows, keys, Chooser(EpsilonGreedy(1.0)).choose(np.zeros(3), keys))
        ChoiceLog(log).reward({"a": 1})
        assert estimate(tmp_path / "model", log, policy="thompson", count="item").logged.value == 1
        assert RowCounts(tmp_path / "model", "item").column == "item_id"


def test_counts_are_how_often_an_id_was_learned(shop):
    counts = RowCounts(shop.model, "item")
    found = counts.of(pa.array([f"i{at}" for at in range(ITEMS)] + ["never"]))
    assert found[:ITEMS].sum() == 1_200
    assert found[ITEMS] == 0
    assert counts.poll() is False
    with pytest.raises(
        JobError, match=r"'price' has no embedding rows to count; those that have: \['user', 'item'\]"
    ):
        RowCounts(shop.model, "price")


def test_counts_pass_over_a_version_that_is_damaged(shop, tmp_path):
    model = shutil.copytree(shop.model, tmp_path / "model")
    log = CheckpointLog(LocalStore(model))
    *_, before, newest = log.versions()
    segment = model / log.read(newest).tables["d4-adagrad"].segments[-1].name
    segment.write_bytes(segment.read_bytes()[:-1])
    counts = RowCounts(model, "item")
    assert counts.version == before
    assert counts.poll() is False


# --------------------------------------------------------------------------------------------- the log


def chosen(keys, seed=0):
    rows = pa.RecordBatch.from_pydict({"x": np.arange(len(keys)) * 1.0})
    return rows, Chooser(EpsilonGreedy(1.0), seed=seed).choose(np.zeros(len(keys)), keys)


def test_a_request_counts_once_and_its_rewards_add_up(tmp_path):
    with Log(tmp_path / "c.db", follow=False) as log:
        kept = ChoiceLog(log)
        keys = ["a", "a", "b", "b", "b"]
        rows, choices = chosen(keys)
        kept.append(rows, keys, choices)
        kept.append(rows, keys, choices)
        kept.reward({"a": 1, "c": 5})
        kept.reward({"a": 0.5})
        read = [
            pair
            for rows, rewards in read_choices(log)
            for pair in zip(rows.column(KEY).to_pylist(), rewards, strict=True)
        ]
        assert read == [("a", 1.5), ("a", 1.5), ("b", None), ("b", None), ("b", None)]
        found = compare(log, lambda rows: {"y": np.ones(rows.num_rows)}, Chooser(Softmax(1.0)))
        assert (found.logged.value, found.unrewarded) == (0.75, 1)
        only = compare(log, lambda rows: {"y": np.ones(rows.num_rows)}, Chooser(Softmax(1.0)), missing=None)
        assert (only.logged.value, only.logged.requests) == (1.5, 1)


def test_what_could_not_be_logged_is_told(tmp_path):
    with Log(tmp_path / "c.db", follow=False) as log:
        rows = pa.RecordBatch.from_pydict({"x": [1.0, 2.0]})
        keys = ["a", "a"]
        ChoiceLog(log).append(rows, keys, Chooser(EpsilonGreedy(0.0)).choose(np.array([1.0, 0.0]), keys))
        ChoiceLog(log).reward({"a": 1})
        found = compare(log, lambda rows: {"y": np.array([0.0, 1.0])}, Chooser(EpsilonGreedy(0.2)))
        assert found.unsupported == pytest.approx(0.9)
        assert found.ips.value == pytest.approx(0.1)


def test_a_log_without_choices_is_an_error(tmp_path):
    with Log(tmp_path / "c.db", follow=False) as log:
        log.append([{"user": 1}])
        with pytest.raises(JobError, match="holds no choices"):
            compare(log, lambda rows: {}, Chooser(EpsilonGreedy()))
        rows, choices = chosen(["a", "a"])
        with pytest.raises(ShapeError, match="there are 1 rows, and choices among 2"):
            ChoiceLog(log).append(rows.slice(0, 1), ["a"], choices)
        taken = pa.RecordBatch.from_pydict({"choice.key": ["a", "b"]})
        with pytest.raises(JobError, match="those of the choice"):
            ChoiceLog(log).append(taken, ["a", "a"], choices)


@pytest.mark.parametrize("value", [None, "much", float("nan"), float("inf")])
def test_a_reward_that_is_no_number_is_refused(tmp_path, value):
    with Log(tmp_path / "c.db", follow=False) as log:
        with pytest.raises(JobError, match=f"reward of 'a' must be a finite number, got {value!r}"):
            ChoiceLog(log).reward({"b": 1.0, "a": value})
        assert log.end == log.first


# ------------------------------------------------------------------------------------------ over the wire


def test_a_client_chooses_by_a_server_and_keeps_it_there(shop):
    path = shop.folder / "served.db"
    with Serving(f"shop={shop.model}", "--log", f"choices={path}") as server:
        server.wait_for("is ready")
        with Client(server.flight) as client:
            choosing = Choosing(client, Chooser(EpsilonGreedy(0.5)), ChoiceLog.at(client))
            made = [choosing.choose(candidates(at % 3), key=f"request {at}") for at in range(20)]
            again = choosing.choose(candidates(0), key="request 0")
            choosing.reward("request 0", 1.0)
            assert again == made[0]
            with pytest.raises(RequestError, match="no candidates"):
                choosing.choose([], key="none")
            with pytest.raises(RequestError, match="no log to keep rewards in"):
                Choosing(client, Chooser(EpsilonGreedy())).reward("x", 1.0)
    assert {choice.propensity for choice in made} <= {0.1, 0.6}
    found = estimate(shop.model, path)
    assert found.logged.requests == 20
    assert found.logged.value == pytest.approx(1 / 20)
