"""One version of a model, loaded to predict."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from onstream.checkpoints import CheckpointLog, Manifest, SegmentFile
from onstream.contracts import Positions, Predictions, Reject
from onstream.errors import CheckpointError, RequestError
from onstream.features import Features
from onstream.learners.predictors import WEIGHTS, Predictor, open_predictor, weights_of
from onstream.serving.model import Input, Signature
from onstream.streams import Place
from onstream.tables import TableGroup

__all__ = ["Copy", "Version", "signature_of"]

_KINDS: dict[str, Literal["id", "list", "number", "tensor"]] = {
    "Id": "id",
    "IdList": "list",
    "Number": "number",
    "Tensor": "tensor",
}


@dataclass(frozen=True)
class Version:
    """A version of a model: parameters, rows and transforms that were cut at one moment.

    Attributes
    ----------
    version : int
    facts : mapping
        What the checkpoint says beside: the job, metrics, "time" (when it was cut, in seconds since 1970).
    positions : dict of str to int
        Up to where it knows its stream, by partition.
    signature : Signature
    """

    version: int
    facts: Mapping[str, Any]
    positions: Positions
    signature: Signature
    _features: Features = field(repr=False)
    _tables: TableGroup = field(repr=False)
    _network: Predictor = field(repr=False)
    _now: int = field(repr=False)

    @property
    def cut_s(self) -> float | None:
        """When it was cut, in seconds since 1970; None if its trainer did not say."""
        found = self.facts.get("time")
        return float(found) if isinstance(found, int | float) else None

    def predict(
        self, rows: pa.RecordBatch | Sequence[pa.RecordBatch] | Sequence[Mapping[str, Any]]
    ) -> Predictions:
        """Predict rows, in their order; nothing is learned or created.

        Parameters
        ----------
        rows : pyarrow.RecordBatch, or a sequence of these or of mappings
            With the columns of `signature`, others ignored. Record batches may differ in their schemas; the
            predictions are those of all their rows.

        Returns
        -------
        dict of str to ndarray of float32
            Probabilities or values (rows,), or class probabilities (rows, classes), by label.

        Raises
        ------
        RequestError
            If a row cannot be read; the message names the column, the row and why.
        CheckpointError
            If the network fails.

        Notes
        -----
        What the trainer's `predict` gives at this version. May be called from any number of threads at once.
        """
        batches = [rows] if isinstance(rows, pa.RecordBatch) else list(rows)
        if not all(isinstance(batch, pa.RecordBatch) for batch in batches):
            batches = [_record_batch(batches, self._features.columns)]
        places = [Place(str(i), np.arange(b.num_rows, dtype=np.int64)) for i, b in enumerate(batches)]
        batch = self._features.encode(batches, places, {}, learn=False)
        if batch.rejects:
            raise RequestError(_told(batch.rejects, several=len(batches) > 1))
        return self._network.predict(batch, self._tables.pull(batch.keys, now=self._now, learn=False))

    def score(self, rows: pa.RecordBatch) -> tuple[Predictions, Sequence[Reject]]:
        """Predict the rows that can be read, in their order.

        Parameters
        ----------
        rows : pyarrow.RecordBatch

        Returns
        -------
        Predictions
            As `predict`, of all rows that are none of the rejects.
        sequence of Reject
            With the number of each row that cannot be read as its position.

        Raises
        ------
        CheckpointError
            If the network fails.
        """
        batch = self._features.encode([rows], [Place("", np.arange(rows.num_rows))], {}, learn=False)
        pulled = self._tables.pull(batch.keys, now=self._now, learn=False)
        return self._network.predict(batch, pulled), batch.rejects


class Copy:
    """Room for one version at a time, which becomes another by what changed between them.

    Parameters
    ----------
    threads : int, optional
        Of the tables.
    allow_pickle : bool
        Load also models that are pickled.
    """

    def __init__(self, threads: int | None = None, *, allow_pickle: bool = False) -> None:
        self.readers = 0
        self.version: Version | None = None
        self._threads = threads
        self._allow_pickle = allow_pickle
        self._manifest: Manifest | None = None
        self._made_for: tuple[Any, int] | None = None
        self._features: Features
        self._tables: TableGroup
        self._network: Predictor

    def load(self, log: CheckpointLog, manifest: Manifest) -> None:
        """Become the version of a manifest. After an error there is no version here.

        Raises
        ------
        OnstreamError
            If a file is missing or damaged, or does not hold what serving needs.
        """
        self.version = None
        described, seed, now = _job_facts(manifest)
        if self._made_for != (described, seed):
            self._make(described, seed)
        before = self._manifest
        # States first: every version has new ones, so they are the first that the trainer removes.
        weights = weights_of(log.states(manifest, "learner", prefix=WEIGHTS))
        transforms = log.states(manifest, "features")
        network = self._opened(log, before, manifest)
        news = {name: self._news(before, manifest, name) for name in self._tables}
        tables = log.tables(manifest, news, columns=("seen", "weights"))
        network.load(weights)
        # All files are open and checked; from here on rows change. Invariant: no version goes on from rows that
        # were loaded by half.
        self._manifest = None
        for name, deltas in tables.items():
            if news[name] is None:
                self._tables.clear(name)
            self._tables.load(name, deltas)
        self._features.load(transforms)
        self._network = network
        self._manifest = manifest
        self.version = Version(
            manifest.version,
            manifest.facts,
            manifest.positions,
            signature_of(described, self._features),
            self._features,
            self._tables,
            self._network,
            now,
        )

    def num_rows(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        return self._tables.num_rows() if self._made_for is not None else {}

    def _make(self, described: Any, seed: int) -> None:
        """Begin anew with features of a description."""
        self._made_for = self._manifest = None
        try:
            self._features = Features.restore(described)
            self._tables = TableGroup(
                self._features.layout.tables, seed=seed, threads=self._threads, learn=False
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"its description of the features cannot be used: {error}; use the onstream that wrote it"
            ) from error
        self._made_for = described, seed

    @staticmethod
    def _news(before: Manifest | None, manifest: Manifest, table: str) -> Collection[SegmentFile] | None:
        """Return the segments that lead from one version to another; None if the table begins anew."""
        older = before.tables.get(table) if before else None
        newer = manifest.tables.get(table)
        return newer.after(older) if older and newer else None

    def _opened(self, log: CheckpointLog, before: Manifest | None, manifest: Manifest) -> Predictor:
        if "network" not in manifest.states:
            raise CheckpointError(
                "it holds no exported network; see the trainer's notes for why, or let the learner be servable"
            )
        if before is not None and before.states.get("network") == manifest.states["network"]:
            return self._network
        exported = log.states(manifest, "network")
        return open_predictor(exported, self._features.layout, allow_pickle=self._allow_pickle)


def _job_facts(manifest: Manifest) -> tuple[Any, int, int]:
    """Return the description of the features, the seed, and the event time."""
    match manifest.facts:
        case {
            "job": {"features": dict(described), "settings": {"seed": int(seed)}},
            "event_time": int(now),
        } if 0 <= seed < 1 << 64 and 0 <= now < 1 << 32:
            return described, seed, now
    raise CheckpointError(
        "it does not say what its features, its seed and its event time are; train it with a Job"
    )


def signature_of(described: Mapping[str, Any], features: Features) -> Signature:
    """Return what a model of these features takes and gives."""
    shapes = {field.name: field.shape for field in features.layout.fields}
    columns: dict[str, Input] = {}
    for facts in described["declarations"]:
        kind = _KINDS.get(facts["kind"])
        if kind is None:
            continue
        column = facts.get("column") or facts["name"]
        shape = (-1,) if kind == "list" else shapes[facts["name"]]
        known = columns.get(column, Input(column, (), shape))
        columns[column] = replace(known, kinds=tuple(dict.fromkeys((*known.kinds, kind))))
    return Signature(tuple(columns.values()), features.layout.labels)


def _record_batch(rows: Sequence[Any], columns: Sequence[str]) -> pa.RecordBatch:
    """Return mappings as a record batch of the columns that any of them has."""
    for at, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise RequestError(f"row {at} must be a mapping of column to value, got {type(row).__name__}")
    arrays = {}
    for column in columns:
        if any(column in row for row in rows):
            try:
                arrays[column] = pa.array([row.get(column) for row in rows])
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise RequestError(
                    f"column {column!r}: values of these rows do not go together: {error}"
                ) from error
    if rows and not arrays:
        raise RequestError(f"the rows have none of the columns {list(columns)}")
    return pa.RecordBatch.from_pydict(arrays)


def _told(rejects: Sequence[Reject], *, several: bool) -> str:
    """Return what is wrong with the first of the bad rows."""
    first = rejects[0]
    place = f"batch {first.partition}, row {first.position}" if several else f"row {first.position}"
    got = f", got {first.value!r}" if first.value else ""
    more = f" ({len(rejects) - 1} more rows are bad)" if len(rejects) > 1 else ""
    return f"{place}: {first.reason}{got}{more}"
