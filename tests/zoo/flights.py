"""A slice of the flights, and what a network makes of it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from onstream import Adagrad, Files, Id, Job, Label, Number, Torch

FLIGHTS = Path(__file__).parents[2] / "data" / "flights.parquet"
IDS = ("carrier", "flight", "tailnum", "dest", "route", "hour", "date")
NUMBERS = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib", "distance")


def write_flights(path, rows=20_000):
    """Write the first flights of the year: late, and whether they were cancelled."""
    flights = pq.read_table(FLIGHTS, columns=[*IDS, *NUMBERS, "late", "outcome"]).slice(0, rows)
    cancelled = pc.cast(pc.equal(flights["outcome"], "cancelled"), pa.int8())
    pq.write_table(flights.drop_columns("outcome").append_column("cancelled", cancelled), path)
    return path


def aucs(source, directory, network, *, dim, labels=("late",)):
    """Return the progressive AUC of each label after one pass over the flights."""
    job = Job(
        Files(source),
        [
            *(Id(name, dim=dim) for name in IDS),
            *(Number(name, standardize=True) for name in NUMBERS),
            *(Label(name, required=False) for name in labels),
        ],
        Torch(network, servable=False),
        directory,
        batch_size=64,
        optimizer=Adagrad(lr=0.05),
        checkpoint_every_s=600,
    )
    report = job.train().progress.report
    return {name: report.labels[name].overall["auc"] for name in labels}
