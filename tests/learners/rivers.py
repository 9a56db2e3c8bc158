"""Jobs with river models over Phishing, which comes with river."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from river import datasets

from onstream import Files, Job, Label, Number, River
from onstream.features import Features
from onstream.streams import Place

FEATURES = [*datasets.Phishing().__iter__().__next__()[0]]


def phishing(count=None):
    """Return river's own rows."""
    return list(datasets.Phishing().take(count) if count else datasets.Phishing())


def write_phishing(path, count=None):
    table = [{**x, "phishing": y} for x, y in phishing(count)]
    pq.write_table(pa.Table.from_pylist(table), path)
    return path


class Kept(Files):
    """Files that keep what was predicted of their rows, as those who wait for answers get it."""

    def answer(self, learned):
        if learned.outcome is not None:
            vars(self).setdefault("predictions", []).extend(learned.outcome.predictions["phishing"].tolist())

    def select(self, columns):
        return self


def phishing_job(model, folder, *, count=None, allow_pickle=False, name="model", **settings):
    source = write_phishing(folder / "phishing.parquet", count)
    features = [*map(Number, FEATURES), Label("phishing")]
    learner = River(model, allow_pickle=allow_pickle)
    return Job(Kept(source), features, learner, folder / name, **settings)


def batch_of(features, rows):
    """Encode rows for a learner of plain values."""
    features = Features(features, plain=True)
    records = pa.RecordBatch.from_pylist(rows)
    return features.encode([records], [Place("", np.arange(len(rows)))], {}), features.layout


def bound(learner, features, rows):
    """Return a batch of rows, and the learner bound to its layout."""
    batch, layout = batch_of(features, rows)
    learner.bind(layout, seed=0)
    return batch, learner
