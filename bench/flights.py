"""How well the flights are predicted, each before it is learned from, beside river's logistic regression.

Run it: python -m bench.flights
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.common import Figure
from bench.peers import river_flights
from onstream import load_job

JOB = Path(__file__).parents[1] / "examples" / "flights.py"


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        summary = load_job(JOB).replace({"directory": directory}).train()
    ours = summary.progress.report.labels["late"].overall
    theirs = river_flights.measure()
    Figure("flights, learning", summary.learned / summary.seconds, "examples/s").report()
    for figure, unit, peer in (
        ("auc", "AUC", "auc"),
        ("log_loss", "nats", "loss"),
        ("ne", "NE", "normalized_entropy"),
    ):
        Figure(f"flights, progressive {figure}", ours[figure], unit, "river", theirs[peer]).report()


if __name__ == "__main__":
    main()
