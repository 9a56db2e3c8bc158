"""What late feedback costs, by policy: predictions made when impressions come, scored with what came of them.

A synthetic stream of known chances, delays and drift, and the flights of 2013, whose delay is known hours after they
left: as they left, with nights without departures, and at an even pace. Between the oracle, which knows labels at once,
and waiting until windows close lie the policies that learn from labels that are not final.

Run it: python -m bench.late_feedback
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from bench import data
from bench.common import Figure
from onstream import (
    SGD,
    DelayedFeedback,
    ElapsedTimeSampling,
    FakeNegativeCalibrated,
    FakeNegativeWeighted,
    Id,
    Job,
    Label,
    Torch,
    Wait,
    load_job,
)
from onstream.contracts import Chunk, Phase, Positions
from onstream.evaluate.log_loss import LogLoss
from onstream.evaluate.ranking import exact_auc
from onstream.feedback import Policy
from onstream.streams import Place

Times = npt.NDArray[np.float64]
Predicted = npt.NDArray[np.float32]

FLIGHTS_JOB = Path(__file__).parents[1] / "examples" / "flights.py"
# Of the learning rates of the example, which are for labels at once.
RATES = (1.0, 1 / 4, 1 / 16)
# Of an arrival, half the window: most flights have arrived by then.
LOOK = "6h"


@dataclass(frozen=True)
class Impressions:
    """Impressions in the order of their time.

    Attributes
    ----------
    columns : pyarrow.Table
        Features, and the label: what came of each.
    label : str
    time, known : ndarray of float64
        Event time of the impression, and of its feedback; infinite where none comes. Seconds.
    window_s : float
    """

    columns: pa.Table
    label: str
    time: Times
    known: Times
    window_s: float

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True)
class Emitted:
    """The rows of a policy, in the order in which they are due; a stream held in memory."""

    rows: pa.Table
    due: Times
    label: str
    policy: Policy | None
    live: bool = False
    key: str = "impression"

    @property
    def policies(self) -> dict[str, Policy]:
        return {} if self.policy is None else {self.label: self.policy}

    def read(self, positions: Positions, *, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        at = positions.get("memory", 0)
        for batch in self.rows.slice(at).to_batches(max_chunksize=max_rows):
            at += batch.num_rows
            yield Chunk(batch, "memory", at)

    def behind(self, positions: Positions) -> tuple[int, str]:
        return len(self.rows) - positions.get("memory", 0), "rows"

    def schema(self) -> pa.Schema:
        return self.rows.schema


def emit(
    impressions: Impressions, policy: Policy | None, *, at_once: bool = False, told: bool = False
) -> Emitted:
    """Return the rows that a policy makes; with none, each row when its feedback comes, or `at_once`.

    If all outcomes are `told`, feedback is the label and not that there is some.
    """
    time, known = impressions.time, impressions.known
    every = np.arange(len(time))
    delay = known - time
    answered = delay <= impressions.window_s
    label = impressions.columns[impressions.label].to_numpy().astype(np.int8)
    parts: list[tuple[object, ...]]
    if policy is None:
        parts = [(every, time if at_once else known, label, Phase.FINAL, 0.0)]
    elif policy.early_s is None:
        outcome = label if told else answered
        parts = [(every, time + impressions.window_s, outcome, Phase.FINAL, impressions.window_s)]
    else:
        early = policy.early_s
        quick = answered & (delay <= early)
        slow = answered & ~quick
        parts = [
            (every[quick], time[quick] + early, 1, Phase.FINAL, delay[quick]),
            (every[~quick], time[~quick] + early, 0, Phase.EARLY, early),
            (every[slow], known[slow], 1, Phase.CORRECTION, delay[slow]),
        ]
        if policy.corrects == "all":
            none = ~answered
            window = impressions.window_s
            parts.append((every[none], time[none] + window, 0, Phase.CORRECTION, window))
    which, due, labels, phase, elapsed = (
        np.concatenate(
            [np.broadcast_to(np.asarray(part[i], np.float64), np.shape(part[0])) for part in parts]
        )
        for i in range(5)
    )
    order = np.argsort(due, kind="stable")
    order = order[np.isfinite(due[order])]
    which, due = which[order].astype(np.int64), due[order]
    name = impressions.label
    rows = impressions.columns.drop_columns([name]).take(which)
    for column, values in {
        name: labels[order].astype(np.int8),
        f"{name}.phase": phase[order].astype(np.int8),
        f"{name}.elapsed": elapsed[order].astype(np.float32),
        f"{name}.time": time[which],
        "impression": which,
    }.items():
        rows = rows.append_column(column, pa.array(values))
    return Emitted(rows.combine_chunks(), due, name, policy)


def progressive(job: Job, impressions: Impressions, *, period_s: float) -> Predicted:
    """Predict the impressions of each period with the model as it then stands, and learn what is due in it.

    Learning is that of the job, batch by batch; what is due before a period begins is learned before.
    """
    trainer = job.trainer()
    emitted = job.stream
    assert isinstance(emitted, Emitted)
    batches = emitted.rows.to_batches()
    rows = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=emitted.schema())
    asked = impressions.columns.drop_columns([impressions.label]).combine_chunks().to_batches()[0]
    predicted = []
    first, size = 0, job.batch_size
    edges = np.arange(impressions.time[0], impressions.time[-1] + period_s, period_s)
    for begin, end in zip(edges, edges + period_s, strict=True):
        # Strictly before: what is due with the first impressions is not known when they are predicted.
        until = int(np.searchsorted(emitted.due, begin, side="left"))
        while first < until:
            piece = rows.slice(first, min(size, until - first))
            batch = trainer.features.encode([piece], [Place("", np.arange(piece.num_rows))], {})
            pulled = trainer.tables.pull(batch.keys, now=batch.now)
            outcome = trainer.learner.learn(batch, pulled)
            trainer.tables.push(batch.keys, outcome.row_grads)
            first += piece.num_rows
        low, high = np.searchsorted(impressions.time, (begin, end))
        if high > low:
            predicted.append(trainer.predict(asked.slice(low, high - low))[impressions.label])
    return np.concatenate(predicted)


# ------------------------------------------------------------------------------------------ synthetic


def synthetic(
    days: int = 5, a_day: int = 30_000, *, window_h: float = 24.0, drift_h: float = 8.0, seed: int = 0
) -> Impressions:
    """Draw impressions of items whose chance of conversion drifts, and whose conversions come late.

    Logits of items and of places are Ornstein-Uhlenbeck processes of spread 1 that forget in `drift_h` hours.
    Delays are exponential; the mean is 1, 3 or 8 hours, by item. Conversions after the window are none.
    """
    random = np.random.default_rng(seed)
    rows, hours = days * a_day, days * 24
    items, places = 300, 40
    time = np.sort(random.random(rows)) * hours
    keep = np.exp(-1 / drift_h)
    paths = np.empty((hours, items + places))
    paths[0] = random.standard_normal(items + places)
    for hour in range(1, hours):
        paths[hour] = keep * paths[hour - 1] + np.sqrt(1 - keep**2) * random.standard_normal(items + places)
    item = np.minimum(random.zipf(1.3, rows) - 1, items - 1)
    place = random.integers(0, places, rows)
    now = time.astype(int)
    logit = -2.5 + paths[now, item] + 0.7 * paths[now, items + place]
    converts = random.random(rows) < 1 / (1 + np.exp(-logit))
    delay = random.exponential(np.array([1.0, 3.0, 8.0])[item % 3])
    known = np.where(converts & (delay <= window_h), time + delay, np.inf)
    columns = pa.table(
        {"item": item, "place": place, "converted": (known < np.inf).astype(np.int8)},
    )
    return Impressions(columns, "converted", time * 3600, known * 3600, window_h * 3600)


class Sum(nn.Module):
    """Logistic regression: one weight an id, and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(-2.5))

    def forward(self, x):
        return x.stack().sum((1, 2)) + self.bias


def synthetic_job(emitted: Emitted, directory: str) -> Job:
    return Job(
        emitted,
        [Id("item", dim=1), Id("place", dim=1), Label("converted")],
        Torch(Sum, optimizer="sgd", lr=0.05, servable=False),
        directory,
        optimizer=SGD(lr=0.05),
        batch_size=64,
    )


# -------------------------------------------------------------------------------------------- flights


def flights(*, both: bool, rows: int | None = None) -> Impressions:
    """Return departures, and arrivals as their feedback: all of them, or only those that are late.

    A late arrival is what a conversion is elsewhere: it is told when it happens, and no telling is none. If `both`
    are told, an arrival in time is known when it happens too.
    """
    table = data.flights().slice(0, rows)
    late = table["late"].to_numpy()
    time, arrived = (pc.cast(table[name], pa.int64()).to_numpy() / 1000 for name in ("scheduled", "arrived"))
    known = arrived if both else np.where(late > 0, arrived, np.inf)
    return Impressions(table.drop_columns(["arrived", "outcome"]), "late", time, known, 12 * 3600.0)


def at_even_pace(impressions: Impressions, *, haste: float = 1.0) -> Impressions:
    """Return the impressions in their order, at equal distances in time; delays are what they were, over `haste`."""
    time = np.linspace(impressions.time[0], impressions.time[-1], len(impressions))
    return replace(impressions, time=time, known=time + (impressions.known - impressions.time) / haste)


def flights_job(emitted: Emitted, directory: str, *, rate: float = 1.0) -> Job:
    """Return the job of the example, its learning rates times `rate`."""
    job = load_job(FLIGHTS_JOB)
    learner = replace(job.learner, lr=rate * job.learner.lr, servable=False)
    optimizer = replace(job.optimizer, lr=rate * job.optimizer.lr)
    return replace(job, stream=emitted, learner=learner, optimizer=optimizer, directory=directory)


# -------------------------------------------------------------------------------------------- figures


def policies(after: str) -> dict[str, Policy]:
    """Return the policies by name; those that look after a while do so `after` that."""
    return {
        "elapsed_time_sampling": ElapsedTimeSampling(after, measured=0),
        "fake_negative_weighted": FakeNegativeWeighted(),
        "fake_negative_calibrated": FakeNegativeCalibrated(),
        "delayed_feedback": DelayedFeedback(after, measured=0),
        "wait": Wait(measured=0),
    }


def streams(impressions: Impressions, after: str) -> dict[str, Emitted]:
    """Return what the oracle and each policy learn, by name."""
    found = {"oracle": emit(impressions, None, at_once=True)}
    window_s = impressions.window_s
    return found | {name: emit(impressions, p.within(window_s)) for name, p in policies(after).items()}


@dataclass(frozen=True)
class Score:
    """How good predictions were: log loss in nats, and AUC."""

    loss: float
    auc: float


Make = Callable[[Emitted, str], Job]


def predict(impressions: Impressions, emitted: Emitted, make: Make, *, period_s: float) -> Predicted:
    with tempfile.TemporaryDirectory() as directory:
        return progressive(make(emitted, directory), impressions, period_s=period_s)


def score(impressions: Impressions, predicted: Predicted, counted: slice) -> Score:
    label = impressions.columns[impressions.label].to_numpy().astype(np.float32)[counted]
    loss = LogLoss()
    loss.update(predicted[counted], label)
    return Score(loss.value(), exact_auc(predicted[counted], label, None))


def report(what: str, scores: dict[str, Score], *, goal: str | None) -> None:
    """Print log loss and AUC by policy; the ratio is how much of the way from "wait" to the oracle a policy goes."""
    oracle, wait = scores["oracle"], scores["wait"]
    for name, score in scores.items():
        between = name not in ("oracle", "wait")
        way = (wait.loss - score.loss) / (wait.loss - oracle.loss) if between else None
        Figure(
            f"{what}, log loss of {name}",
            score.loss,
            "nats",
            "wait" if between else None,
            wait.loss if between else None,
            way,
            goal if between else None,
        ).report()
        Figure(f"{what}, AUC of {name}", score.auc, "AUC").report()


def report_order(what: str, scores: dict[str, Score]) -> None:
    one, other = (scores[name].loss for name in ("elapsed_time_sampling", "fake_negative_weighted"))
    Figure(
        f"{what}, elapsed_time_sampling against fake_negative_weighted",
        one,
        "nats",
        "fake_negative_weighted",
        other,
        one / other,
        "<= 1",
    ).report()


def measure_synthetic(seeds: int) -> None:
    rounds = []
    for seed in range(seeds):
        made = synthetic(seed=seed)
        counted = slice(int(np.searchsorted(made.time, made.time[0] + 2 * 86_400)), None)
        rounds.append(
            {
                name: score(made, predict(made, emitted, synthetic_job, period_s=900), counted)
                for name, emitted in streams(made, "5m").items()
            }
        )
    mean = {
        name: Score(*(float(np.mean([getattr(r[name], part) for r in rounds])) for part in ("loss", "auc")))
        for name in rounds[0]
    }
    report("synthetic stream", mean, goal="> 0")
    report_order("synthetic stream", mean)


def measure_arrivals() -> None:
    """Measure what is told by all arrivals, in time or late."""
    year = flights(both=True)
    told = {"oracle": emit(year, None, at_once=True), "when_known": emit(year, None)}
    told["wait"] = emit(year, Wait(measured=0).within(year.window_s), told=True)
    scores = {
        name: score(year, predict(year, emitted, flights_job, period_s=1_800), slice(None))
        for name, emitted in told.items()
    }
    report("flights of the year", scores, goal="> 0")


def measure_late_arrivals(what: str, late: Impressions, *, first: int) -> None:
    """Measure what is told by late arrivals alone, after the `first` flights.

    On these the learning rate is chosen, for each policy and the oracle from the same few.
    """
    scores = {}
    for name, emitted in streams(late, LOOK).items():
        found = {
            rate: predict(late, emitted, partial(flights_job, rate=rate), period_s=1_800) for rate in RATES
        }
        rate = min(RATES, key=lambda rate: score(late, found[rate], slice(first)).loss)
        Figure(f"{what}, learning rate of {name}", rate, "of the example's").report()
        for other in RATES:
            loss = score(late, found[other], slice(first, None)).loss
            Figure(f"{what}, log loss of {name} at a rate of {other:g}", loss, "nats").report()
        scores[name] = score(late, found[rate], slice(first, None))
    report(what, scores, goal="> 0")
    report_order(what, scores)


def measure_haste(late: Impressions, *, haste: float, first: int) -> None:
    """Measure whether what is emitted at once is learned well where feedback comes faster than the learner forgets."""
    hastened = at_even_pace(late, haste=haste)
    emitted = emit(hastened, FakeNegativeWeighted().within(late.window_s))
    predicted = predict(hastened, emitted, flights_job, period_s=1_800)
    loss = score(hastened, predicted, slice(first, None)).loss
    what = f"flights at an even pace, delays over {haste:g}"
    Figure(f"{what}, log loss of fake_negative_weighted at a rate of 1", loss, "nats").report()


def report_mix(what: str, late: Impressions) -> None:
    """Print how the share of positives changes with the hour among the rows of a policy that emits at once."""
    emitted = emit(late, FakeNegativeWeighted().within(late.window_s))
    hour = (emitted.due // 3600 % 24).astype(int)
    positive = emitted.rows[emitted.label].to_numpy()
    rows = np.bincount(hour, minlength=24)
    share = (np.bincount(hour, positive, 24) / rows)[rows >= len(hour) / 1000]
    for name, value in {"least": share.min(), "mean": positive.mean(), "most": share.max()}.items():
        Figure(f"{what}, share of positives among rows at once, {name} of an hour", value, "of 1").report()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("synthetic", "flights"))
    parser.add_argument("--seeds", type=int, default=3, help="of the synthetic stream")
    parser.add_argument("--rows", type=int, default=60_000, help="flights for the policies of rare feedback")
    parser.add_argument("--first", type=int, default=20_000, help="of these, to choose learning rates on")
    arguments = parser.parse_args()
    # Networks are small: threads would cost more than they bring.
    torch.set_num_threads(1)
    if arguments.only != "flights":
        measure_synthetic(arguments.seeds)
    if arguments.only != "synthetic":
        measure_arrivals()
        late = flights(both=False, rows=arguments.rows)
        for what, impressions in {
            "flights as they left": late,
            "flights at an even pace": at_even_pace(late),
        }.items():
            report_mix(what, impressions)
            measure_late_arrivals(what, impressions, first=arguments.first)
        measure_haste(late, haste=10, first=arguments.first)


if __name__ == "__main__":
    main()
