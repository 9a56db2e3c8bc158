"""River's logistic regression on the flights of the demo."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import river
from river import compose, linear_model, optim, preprocessing

from bench import data
from bench.peers import river_linear

RESULTS = Path(__file__).parents[1] / "results"


def measure(rows: int | None = None, *, rate: float = 0.02) -> dict[str, float]:
    """Return what River reaches on the first `rows` flights that have a label, or on all of them.

    Returns
    -------
    dict
        `rows`, `rows_per_s`, and over all predictions, each made before learning from its row: `auc`, `loss`
        (nats a row) and `normalized_entropy` (the loss over that of always predicting the mean label).

    Notes
    -----
    It takes less than a minute. The answer is kept under bench/results; delete that folder to measure again.
    The losses follow from the data. The rate is that of another run: compare it only roughly.
    """
    kept = RESULTS / f"river-{river.__version__}-flights-{rows or 'all'}-{rate}.json"
    if not kept.exists():
        result = train(data.flights().slice(0, rows), rate=rate)
        facts = {
            "rows": result.rows,
            "rows_per_s": result.rate,
            "auc": result.auc,
            "loss": result.loss,
            "normalized_entropy": result.normalized_entropy,
        }
        RESULTS.mkdir(exist_ok=True)
        kept.write_text(json.dumps(facts))
    return json.loads(kept.read_text())


def train(table: pa.Table, *, rate: float = 0.02) -> river_linear.Result:
    """Learn once from `bench.data.flights()`: ids as words, numbers standardised as they stream by.

    Parameters
    ----------
    rate : float
        Of plain gradient descent, River's default. On all flights, 0.02 was the best of 0.005, 0.01 and 0.02,
        and better than Adagrad at 0.05, 0.1 and 0.2.
    """
    # Words carry the integer 1 and numbers are floats, so the type tells them apart.
    scaled = compose.SelectType(float) | preprocessing.StandardScaler()
    model = (scaled + compose.SelectType(int)) | linear_model.LogisticRegression(optim.SGD(rate))
    return river_linear.learn(model, list(dictionaries(table)), table["late"].to_numpy())


def dictionaries(table: pa.Table) -> Iterator[dict[str, int | float]]:
    """Yield each row as River takes it. A missing number is left out: it has no say, and teaches nothing."""
    ids = [[f"{name}={value}" for value in table[name].to_pylist()] for name in data.FLIGHT_IDS]
    numbers = [table[name].to_pylist() for name in data.FLIGHT_NUMBERS]
    for words, values in zip(zip(*ids, strict=True), zip(*numbers, strict=True), strict=True):
        known = zip(data.FLIGHT_NUMBERS, values, strict=True)
        yield dict.fromkeys(words, 1) | {name: float(x) for name, x in known if x is not None}
