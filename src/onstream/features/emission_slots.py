"""How far the feedback of each row has come: columns that a stream adds for labels whose feedback is late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.contracts import Emission, Phase
from onstream.core import salt
from onstream.features.columns import hash_ids, read_numbers
from onstream.features.slots import Draft, Fault, Slot, hash_faults
from onstream.feedback import elapsed_column, phase_column, time_column

__all__ = ["emission_slots", "empty_emission"]

_IMPRESSION = salt("onstream.impression")


def empty_emission(rows: int) -> Emission:
    """Return the arrays of rows that are not about a label."""
    return Emission(
        phase=np.full(rows, Phase.ABSENT, np.int8),
        elapsed=np.zeros(rows, np.float32),
        time=np.zeros(rows),
        keys=np.zeros(rows, np.uint64),
    )


def emission_slots(column: str, label: str, key: str, *, required: bool) -> Sequence[Slot]:
    """Return the slots of one label whose feedback is late; they go after the label's own.

    Parameters
    ----------
    column : str
        Of the label.
    label : str
    key : str
        The column that names impressions.
    required : bool
        Whether a row that tells an outcome must have one.
    """
    return (
        PhaseSlot(phase_column(column), label, required),
        NumberOfEmissionSlot(elapsed_column(column), label, "elapsed"),
        NumberOfEmissionSlot(time_column(column), label, "time"),
        KeySlot(key, label),
    )


@dataclass(frozen=True, slots=True)
class PhaseSlot:
    """The phase of each row; null where it is not about the label."""

    column: str
    label: str
    required: bool
    asked: bool = False

    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Read, and check that rows with an outcome have it, and others have none."""
        values, bad = read_numbers(column)
        phase = np.where(np.isnan(values), Phase.ABSENT, values)
        strange = ~np.isin(phase, list(Phase)) if bad is None else bad | ~np.isin(phase, list(Phase))
        phase = np.where(strange, Phase.ABSENT, phase).astype(np.int8)
        draft.emissions[self.label].phase[rows] = phase
        labels = draft.labels[self.label][rows]
        open_ = (phase == Phase.ABSENT) | (phase == Phase.ASKED)
        labels[open_] = np.nan
        faults = []
        if strange.any():
            faults.append(Fault(f"column {self.column!r}: expected a phase, from 0 to 3", strange))
        if self.required and (missing := np.isnan(labels) & ~open_).any():
            faults.append(Fault(f"label {self.label!r}: missing", missing))
        return faults


@dataclass(frozen=True, slots=True)
class NumberOfEmissionSlot:
    """Elapsed seconds, or the time of impressions; 0 where null."""

    column: str
    label: str
    part: str
    asked: bool = False

    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Read, and check that numbers are finite."""
        values, bad = read_numbers(column)
        strange: npt.NDArray[np.bool_] = np.isinf(values) if bad is None else bad | np.isinf(values)
        into = getattr(draft.emissions[self.label], self.part)
        into[rows] = np.where(np.isnan(values) | strange, 0.0, values)
        return [Fault(f"column {self.column!r}: expected a finite number", strange)] if strange.any() else []


@dataclass(frozen=True, slots=True)
class KeySlot:
    """What names the impression."""

    column: str
    label: str
    asked: bool = False

    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Hash the column."""
        codes = hash_ids(column, _IMPRESSION, draft.emissions[self.label].keys[rows])
        return [] if codes is None else hash_faults(self.column, codes)
