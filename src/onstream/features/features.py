"""Record batches to batches: what is declared, applied to what arrives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream import contracts
from onstream.contracts import Batch, Keys, Layout, Positions, Reject, RowPolicy, State
from onstream.core import hash_value, salt
from onstream.errors import ColumnError, JobError
from onstream.features.declarations import (
    POLICIES,
    Declaration,
    EventTime,
    Group,
    Id,
    IdList,
    Label,
    Number,
    Tensor,
    Weight,
)
from onstream.features.description import KINDS, declare, declare_policy, describe, describe_policy
from onstream.features.emission_slots import emission_slots, empty_emission
from onstream.features.faults import Finding, Here, Place, absence, every, far_ahead, rejects_of
from onstream.features.id_block import IdBlock
from onstream.features.layout import lay_out
from onstream.features.moments import Moments
from onstream.features.shown import readable
from onstream.features.slot_making import slot_of
from onstream.features.slots import (
    Draft,
    IdSlot,
)
from onstream.feedback import Labelling

__all__ = ["Features"]


class Features:
    """What the columns of a job mean, and the state of the transforms that depend on the stream.

    Parameters
    ----------
    declarations : sequence of Id, IdList, Number, Tensor, Label, Weight, EventTime and Group
        At least one feature and one label; at most one `Weight` and one `EventTime`.
    defaults : mapping of str to RowPolicy or None
        The job's "optimizer", "initial", "admission" and "expiry", for features that name none.
    plain : bool
        Give the values themselves, as `Batch.columns`, and have no tables.
    labelling : Labelling, optional
        How the labels of the stream come about. It decides what is learned from, and is no part of `describe`:
        whoever predicts needs none of it.

    Attributes
    ----------
    layout : Layout
        The shape of every batch.
    columns : tuple of str
        The columns that are read, each once; to predict, those of labels, weights, times and groups need
        not be there.
    groups : tuple of str
        The columns by which metrics are grouped.
    timed : bool
        Whether rows have event times.

    Raises
    ------
    JobError
        If the declarations do not go together.

    Notes
    -----
    The result depends on the declarations, the state and the rows alone. With ``learn=False``, `encode`
    changes nothing and may be called from any thread at any time; with ``learn=True``, from one at a time.

    Examples
    --------
    >>> import pyarrow as pa
    >>> features = Features([Id("user", 8), Number("price", log=True), Label("click")])
    >>> [table.name for table in features.layout.tables]
    ['d8']
    >>> rows = pa.RecordBatch.from_pylist([{"user": 7, "price": 0, "click": 1}])
    >>> features.preview(rows, 1)
    [{'user': 'key 978c8122606991d2 in d8', 'price': 0.0, 'click': 1.0}]
    """

    def __init__(
        self,
        declarations: Sequence[Declaration],
        *,
        defaults: Mapping[str, RowPolicy | None] | None = None,
        plain: bool = False,
        labelling: Labelling | None = None,
    ) -> None:
        labelling = labelling or Labelling()
        self._declarations = tuple(declarations)
        self._defaults = dict(defaults or {})
        self._plain = plain
        _check(self._declarations, self._defaults)
        features = [d for d in self._declarations if isinstance(d, Id | IdList | Number | Tensor)]
        labels = [d for d in self._declarations if isinstance(d, Label)]
        fields, tables = lay_out(features, self._defaults, plain=plain)
        self.layout = Layout(
            fields=fields,
            labels=tuple(_label(x, labelling) for x in labels),
            tables=tables,
            weighted=any(isinstance(d, Weight) for d in self._declarations),
        )
        late = [x for x in labels if (policy := labelling.policies.get(x.source)) and policy.columns]
        emission = [
            slot
            for x in late
            for slot in emission_slots(x.source, x.name, labelling.key, required=x.required)
        ]
        self._late = tuple(x.name for x in late)
        sources = [d.source for d in self._declarations] + [slot.column for slot in emission]
        self.columns: tuple[str, ...] = tuple(dict.fromkeys(sources))

        self.groups = tuple(d.name for d in self._declarations if isinstance(d, Group))
        self._time_column = next((d.source for d in self._declarations if isinstance(d, EventTime)), "")
        self.timed = bool(self._time_column)

        standardized = [f for f in features if isinstance(f, Number) and f.standardize]
        # A transform that comes before changes what the moments are of, so it is in their name.
        self._moments = Moments([f"log({f.name})" if f.log else f.name for f in standardized])
        self._now = 0
        self._fill = np.array([f.fill for f in standardized])
        self._clip = np.array([f.clip for f in standardized])
        field_of = {field.name: field for field in fields}
        self._exact_columns = np.array([field_of[f.name].column for f in standardized], np.intp)
        exact_index = {f.name: i for i, f in enumerate(standardized)}
        self._slots = [
            slot_of(d, field_of, exact_index, plain=plain)
            # Whether a label may be missing, the phase of its row says.
            for d in (replace(d, required=False) if d in late else d for d in self._declarations)
        ]
        self._slots += emission
        self._id_block = IdBlock([slot for slot in self._slots if isinstance(slot, IdSlot)])
        self._other_slots = [slot for slot in self._slots if not isinstance(slot, IdSlot)]
        self._num_numbers = sum(field.kind == "number" for field in fields)
        self._num_ids = {table.name: len(self.layout.ids(table.name)) for table in tables}
        self._null_groups = {name: hash_value(None, salt(name)) for name in self.groups}

    def encode(
        self,
        batches: Sequence[pa.RecordBatch],
        places: Sequence[Place],
        positions: Positions,
        rejects: Sequence[Reject] = (),
        *,
        learn: bool = True,
    ) -> Batch:
        """Turn record batches into one batch.

        Parameters
        ----------
        batches : sequence of pyarrow.RecordBatch
            Their schemas may differ: in order, in types, in columns that are not declared.
        places : sequence of Place
            One a record batch.
        positions : Positions
            Where to read on after these rows; becomes that of the batch.
        rejects : sequence of Reject
            What was already rejected on the way here; comes first in the rejects of the batch.
        learn : bool
            Without it, nothing is learned from the batch: statistics stay, and columns of labels, weights,
            times and groups may be missing or bad: labels are then NaN, weights 1, groups that of a null.

        Returns
        -------
        Batch
            Of all rows that are good in every feature, in order. Each other row is one of the rejects, with
            the first fault in the order of the declarations.

        Notes
        -----
        The keys of a "list" with pooling "pad" are laid out padded: rows x length of them, row-major, with
        key 0 after the last id of a row, and no offsets. Those of other lists come one after the other, with
        offsets of shape (rows + 1,).

        Numbers that are standardised use the statistics of all rows of earlier calls.
        """
        return self._encode(batches, places, positions, rejects, strict=learn, learn=learn)

    def preview(self, batch: pa.RecordBatch, num_rows: int) -> list[dict[str, Any]]:
        """Return how the first rows of a record batch are read, for people to look at.

        Returns
        -------
        list of dict
            For each row, what the network sees of each feature, and the labels; for a row that would be
            rejected, the reason under "rejected".
        """
        batch = batch.slice(0, num_rows)
        place = Here("", np.arange(batch.num_rows, dtype=np.int64))
        encoded = self._encode([batch], [place], {}, (), strict=True, learn=False)
        rejected = {reject.position: reject for reject in encoded.rejects}
        good = readable(self.layout, encoded)
        return [
            {"rejected": bad.reason, "value": bad.value} if (bad := rejected.get(row)) else next(good)
            for row in range(batch.num_rows)
        ]

    def state(self) -> State:
        """Return what the transforms must remember: a few numbers for each that depends on the stream."""
        return State(dict(self._moments.arrays()), {"moments": list(self._moments.names), "now": self._now})

    def load(self, state: State) -> None:
        """Go on from `state`. Transforms that it does not know start fresh; those that are gone are left."""
        self._moments.load(state.facts.get("moments", ()), state.arrays)
        self._now = int(state.facts.get("now", 0))

    def declared(self, name: str) -> Declaration:
        """Return the declaration of this name."""
        return next(d for d in self._declarations if d.name == name)

    def describe(self) -> dict[str, Any]:
        """Return the declarations as JSON values, and the tables that they make."""
        return {
            "declarations": [describe(d) for d in self._declarations],
            "defaults": {name: describe_policy(policy) for name, policy in self._defaults.items()},
            "tables": [
                {"name": table.name, "dim": table.dim, "features": list(table.features)}
                for table in self.layout.tables
            ],
            **({"plain": True} if self._plain else {}),
        }

    @classmethod
    def restore(cls, described: Mapping[str, Any]) -> Features:
        """Return features with equal layout and keys from what `describe` returned.

        Raises
        ------
        JobError
            If the description names what this version does not know.
        """
        defaults = {name: declare_policy(facts) for name, facts in described["defaults"].items()}
        declarations = [declare(facts) for facts in described["declarations"]]
        return cls(declarations, defaults=defaults, plain=bool(described.get("plain")))

    # ------------------------------------------------------------------------------------ encoding

    def _encode(
        self,
        batches: Sequence[pa.RecordBatch],
        places: Sequence[Place],
        positions: Positions,
        rejects: Sequence[Reject],
        *,
        strict: bool,
        learn: bool,
    ) -> Batch:
        num_rows = sum(batch.num_rows for batch in batches)
        draft = self._draft(num_rows)
        findings: list[Finding] = []
        begin = 0
        for batch, place in zip(batches, places, strict=True):
            rows = slice(begin, begin + batch.num_rows)
            findings.extend(self._read(batch, place, rows, draft, strict=strict))
            begin = rows.stop
        if strict:
            findings.extend(far_ahead(self._time_column, batches, places, draft.times, self._now))
        found: list[Reject] = []
        if findings:
            bad, found = rejects_of(findings, num_rows)
            draft.keep(~bad)
            num_rows -= len(found)
        return self._finish(draft, num_rows, positions, (*rejects, *found), learn=learn)

    def _draft(self, rows: int) -> Draft:
        fields = self.layout.fields
        lists = [field for field in fields if field.kind == "list"]
        return Draft(
            blocks={name: np.empty((rows, ids), np.uint64) for name, ids in self._num_ids.items() if ids},
            padded={f.name: np.zeros((rows, f.length), np.uint64) for f in lists if f.pooling == "pad"},
            lengths={f.name: np.zeros(rows, np.int64) for f in lists if f.pooling != "pad"},
            pieces={f.name: [] for f in lists if f.pooling != "pad"},
            # A learner of plain values has use for all digits.
            numbers=np.empty((rows, self._num_numbers), np.float64 if self._plain else np.float32),
            # Column by column, as it is written and summed.
            exact=np.empty((rows, len(self._fill)), order="F"),
            tensors={f.name: np.empty((rows, *f.shape), np.float32) for f in fields if f.kind == "tensor"},
            labels={label.name: np.full(rows, np.nan, np.float32) for label in self.layout.labels},
            weights=np.ones(rows, np.float32) if self.layout.weighted else None,
            groups={name: np.full(rows, key, np.uint64) for name, key in self._null_groups.items()},
            times=np.full(rows, np.nan),
            emissions={name: empty_emission(rows) for name in self._late},
            plain={f.name: [None] * rows for f in fields if self._plain and f.kind in ("id", "list")},
        )

    def _read(
        self, batch: pa.RecordBatch, place: Place, rows: slice, draft: Draft, *, strict: bool
    ) -> Iterator[Finding]:
        """Read every column of one record batch; stop at one that rejects all of its rows."""
        schema = batch.schema
        slots = self._other_slots if self._id_block.fill(batch, rows, draft) else self._slots
        for slot in slots:
            at = schema.get_field_index(slot.column)
            needed = strict or slot.asked
            if at < 0:
                if needed:
                    yield Finding(every(batch, absence(schema, slot.column)), rows, None, place)
                    return
                continue
            column = batch.column(at)
            try:
                faults = slot.fill(column, rows, draft)
            except ColumnError as error:
                if needed:
                    fault = every(batch, f"column {slot.column!r}: {error}")
                    yield Finding(fault, rows, column, place)
                    return
                continue
            if needed:
                for fault in faults:
                    yield Finding(fault, rows, column, place)

    def _finish(
        self, draft: Draft, num_rows: int, positions: Positions, rejects: tuple[Reject, ...], *, learn: bool
    ) -> Batch:
        if len(self._fill) and num_rows:
            shown = np.clip(self._moments.standardize(draft.exact), -self._clip, self._clip)
            draft.numbers[:, self._exact_columns] = np.where(np.isnan(shown), self._fill, shown)
            if learn:
                self._moments.add(draft.exact)
        times = draft.times[~np.isnan(draft.times)]
        now = int(times.max()) if len(times) else self._now
        if learn:
            self._now = now
        flat = {name: np.concatenate(p) if p else np.zeros(0, np.uint64) for name, p in draft.pieces.items()}
        return Batch(
            num_rows=num_rows,
            keys={table.name: self._keys(table.name, draft, flat) for table in self.layout.tables},
            offsets={name: _offsets(lengths) for name, lengths in draft.lengths.items()},
            numbers=draft.numbers.astype(np.float32, copy=False),
            tensors=draft.tensors,
            labels=draft.labels,
            weights=draft.weights,
            groups=draft.groups,
            now=now,
            positions=positions,
            rejects=rejects,
            state=self.state(),
            emissions=draft.emissions,
            columns=self._columns(draft) if self._plain else None,
        )

    def _columns(self, draft: Draft) -> dict[str, list[Any]]:
        """Return the plain values of each feature, in the order of the declarations."""
        columns: dict[str, list[Any]] = {}
        for field in self.layout.fields:
            if field.kind == "number":
                columns[field.name] = draft.numbers[:, field.column].tolist()
            elif field.kind == "tensor":
                blocks = draft.tensors[field.name]
                columns[field.name] = blocks.reshape(len(blocks), math.prod(field.shape)).tolist()
            else:
                columns[field.name] = draft.plain[field.name]
        return columns

    def _keys(self, table: str, draft: Draft, flat: Mapping[str, Keys]) -> Keys:
        parts: list[Keys] = [draft.blocks[table].reshape(-1)] if table in draft.blocks else []
        parts += [
            draft.padded[field.name].reshape(-1) if field.pooling == "pad" else flat[field.name]
            for field in self.layout.lists(table)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _check(declarations: Sequence[Declaration], defaults: Mapping[str, RowPolicy | None]) -> None:
    unknown = sorted(set(defaults) - set(POLICIES))
    if unknown:
        raise JobError(f"{unknown[0]!r} is no default of features; there are {', '.join(POLICIES)}")
    for declaration in declarations:
        if type(declaration) not in KINDS.values():
            raise JobError(f"{declaration!r} is no declaration of a feature; there are {', '.join(KINDS)}")
    seen: dict[str, str] = {}
    for declaration in declarations:
        kind = type(declaration).__name__
        # A column may be seen, and be what metrics are grouped by.
        key = f"{kind} {declaration.name}" if isinstance(declaration, Group) else declaration.name
        if key in seen:
            raise JobError(
                f"{declaration.name!r} is declared twice, as {seen[key]} and as {kind}; "
                f"give one another name and say column={declaration.source!r}"
            )
        seen[key] = kind
    for single in (Weight, EventTime):
        names = [d.name for d in declarations if isinstance(d, single)]
        if len(names) > 1:
            raise JobError(f"there can be one {single.__name__}, got {', '.join(map(repr, names))}")
    if not any(isinstance(d, Label) for d in declarations):
        raise JobError("there is no label to learn; declare one, such as Label('click')")
    if not any(isinstance(d, Id | IdList | Number | Tensor) for d in declarations):
        raise JobError("there is no feature to learn from; declare one, such as Id('user')")


def _label(label: Label, labelling: Labelling) -> contracts.Label:
    """Return a label as the layout has it."""
    kept = labelling.negatives_kept.get(label.source, 1.0)
    if kept < 1 and (label.task != "binary" or label.threshold is not None):
        raise JobError(
            f"label {label.name!r}: negatives can be left out only where the column holds 0 and 1; this is "
            f"{label.task}{'' if label.threshold is None else ' with a threshold'}"
        )
    policy = labelling.policies.get(label.source)
    return contracts.Label(label.name, label.task, label.classes or 0, policy, kept)


def _offsets(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
