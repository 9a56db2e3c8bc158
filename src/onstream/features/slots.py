"""How each declaration fills its place in the arrays of a batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.contracts import Array, Emission, Keys, Rows
from onstream.features.columns import (
    Mask,
    hash_ids,
    read_blocks,
    read_lists,
    read_numbers,
    read_seconds,
    segment_sums,
)

__all__ = [
    "BucketSlot",
    "Domain",
    "Draft",
    "Fault",
    "GroupSlot",
    "IdSlot",
    "LabelSlot",
    "ListSlot",
    "NumberSlot",
    "Slot",
    "TensorSlot",
    "TimeSlot",
    "WeightSlot",
    "hash_faults",
    "list_faults",
    "number_faults",
]

_LARGEST = float(np.finfo(np.float32).max)

# What the codes of `onstream.core.hash_column` mean.
_HASH_FAULTS = {1: "longer than 65536 bytes", 2: "not a whole number"}


class Fault(NamedTuple):
    """Rows of one column that are bad for one reason."""

    reason: str
    rows: Mask


@dataclass(slots=True)
class Draft:
    """The arrays of a batch while record batches are read into them; every array has one entry a row.

    Attributes
    ----------
    blocks : dict of str to ndarray, shape (rows, ids)
        Of each table with "id" fields.
    padded : dict of str to ndarray, shape (rows, length)
        Of each list with pooling "pad".
    lengths : dict of str to ndarray, shape (rows,)
        Of each other list.
    pieces : dict of str to list of ndarray
        The keys of each other list, one piece a record batch.
    exact : ndarray of float64, shape (rows, standardised numbers)
        Numbers that wait for their statistics; NaN where null.
    times : ndarray of float64, shape (rows,)
        NaN where null.
    emissions : dict of str to Emission
        Of each label whose feedback is late.
    plain : dict of str to list
        The values of each feature whose ids stay as they are, one a row.
    """

    blocks: dict[str, Keys]
    padded: dict[str, Keys]
    lengths: dict[str, npt.NDArray[np.int64]]
    pieces: dict[str, list[Keys]]
    numbers: Rows
    exact: npt.NDArray[np.float64]
    tensors: dict[str, Rows]
    labels: dict[str, Rows]
    weights: Rows | None
    groups: dict[str, Keys]
    times: npt.NDArray[np.float64]
    emissions: dict[str, Emission]
    plain: dict[str, list[Any]]

    def keep(self, rows: Mask) -> None:
        """Drop all rows but these."""
        for name, lengths in self.lengths.items():
            kept = np.repeat(rows, lengths)
            self.pieces[name] = [np.concatenate(self.pieces[name])[kept]] if len(kept) else []
        dicts: tuple[dict[str, Array], ...] = (
            self.blocks,
            self.padded,
            self.lengths,
            self.tensors,
            self.labels,
            self.groups,
        )
        for arrays in dicts:
            for name, array in arrays.items():
                arrays[name] = array[rows]
        for name, emission in self.emissions.items():
            self.emissions[name] = emission.pick(rows)
        for name, values in self.plain.items():
            self.plain[name] = list(itertools.compress(values, rows.tolist()))
        self.numbers, self.exact, self.times = self.numbers[rows], self.exact[rows], self.times[rows]
        if self.weights is not None:
            self.weights = self.weights[rows]


class Slot(Protocol):
    """One declaration, ready to read columns.

    Attributes
    ----------
    column : str
        Where it reads from.
    asked : bool
        Whether it is needed to predict, too.
    """

    @property
    def column(self) -> str: ...  # noqa: D102
    @property
    def asked(self) -> bool: ...  # noqa: D102
    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Read a column into `rows` of the draft and return what is bad.

        Raises
        ------
        ColumnError
            If the type of the column cannot be read as this.
        """


@dataclass(frozen=True, slots=True)
class IdSlot:
    """An `Id`: hashed straight into its column of the table's block."""

    column: str
    table: str
    index: int
    salt: int
    asked: bool = True

    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Hash the column into its place."""
        codes = hash_ids(column, self.salt, draft.blocks[self.table][rows, self.index])
        return [] if codes is None else hash_faults(self.column, codes)


@dataclass(frozen=True, slots=True)
class BucketSlot:
    """A `Number` with bounds: each bucket's key is known beforehand, that of nulls comes last."""

    column: str
    table: str
    index: int
    bounds: npt.NDArray[np.float64]
    keys: Keys
    asked: bool = True

    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Look up the bucket of each number."""
        values, bad = read_numbers(column)
        bucket = np.searchsorted(self.bounds, values, side="right")
        bucket[np.isnan(values)] = len(self.keys) - 1
        draft.blocks[self.table][rows, self.index] = self.keys[bucket]
        return number_faults(self.column, bad, np.isinf(values))


@dataclass(frozen=True, slots=True)
class ListSlot:
    """An `IdList`: keys one after the other, or one padded block."""

    column: str
    name: str
    salt: int
    padded: int
    separator: str | None
    max_length: int
    asked: bool = True

    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Hash all elements, then set them apart by row."""
        values, lengths = read_lists(column, self.separator)
        keys = np.empty(len(values), np.uint64)
        codes = hash_ids(values, self.salt, keys)
        if self.padded:
            _pad(keys, lengths, draft.padded[self.name][rows])
        else:
            draft.lengths[self.name][rows] = lengths
            draft.pieces[self.name].append(keys)
        return list_faults(self.column, self.max_length, lengths, codes)


@dataclass(frozen=True, slots=True)
class NumberSlot:
    """A `Number` that the network sees as such. A standardised one waits in `Draft.exact`."""

    column: str
    index: int
    log: bool
    fill_value: float
    exact_index: int | None
    asked: bool = True

    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Read, transform what needs no statistics, and check the range."""
        values, bad = read_numbers(column)
        if self.log:
            values = np.copysign(np.log1p(np.abs(values)), values)
        too_large = np.abs(values) > _LARGEST
        faults = number_faults(self.column, bad, too_large)
        if faults:
            values = np.where(too_large, 0.0, values)
        if self.exact_index is not None:
            draft.exact[rows, self.exact_index] = values
        else:
            draft.numbers[rows, self.index] = np.where(np.isnan(values), self.fill_value, values)
        return faults


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """A `Tensor`."""

    column: str
    name: str
    shape: tuple[int, ...]
    scale: float
    asked: bool = True

    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Read and scale."""
        blocks, bad = read_blocks(column, int(np.prod(self.shape)))
        out = draft.tensors[self.name][rows]
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(blocks.reshape(len(blocks), *self.shape), np.float32(self.scale), out=out)
        reason = f"column {self.column!r}: expected {' x '.join(map(str, self.shape))} finite numbers"
        return [] if bad is None else [Fault(reason, bad)]


class Domain(NamedTuple):
    """What a label may be."""

    low: float
    high: float
    whole: bool
    text: str

    def holds(self, values: npt.NDArray[np.float64]) -> Mask:
        """Return which values are inside; NaN is not."""
        inside: Mask = (values >= self.low) & (values <= self.high)
        return inside & (values == np.floor(values)) if self.whole else inside


@dataclass(frozen=True, slots=True)
class LabelSlot:
    """A `Label`."""

    column: str
    name: str
    read: Callable[[pa.Array], tuple[npt.NDArray[np.float64], Mask | None]]
    domain: Domain
    threshold: float | None
    required: bool
    asked: bool = False

    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Read, and check the domain; what is outside becomes NaN."""
        values, bad = self.read(column)
        null = np.isnan(values)
        if bad is not None:
            null &= ~bad
        strange = ~(self.domain.holds(values) | null)
        faults = []
        if strange.any():
            faults.append(Fault(f"label {self.name!r}: expected {self.domain.text}", strange))
            values = np.where(strange, np.nan, values)
        if self.required and null.any():
            faults.append(Fault(f"label {self.name!r}: missing", null))
        if self.threshold is not None:
            values = np.where(np.isnan(values), np.nan, values >= self.threshold)
        draft.labels[self.name][rows] = values
        return faults


@dataclass(frozen=True, slots=True)
class WeightSlot:
    """The `Weight`."""

    column: str
    asked: bool = False

    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Read, and check the sign; what is bad becomes 1."""
        values, bad = read_numbers(column)
        strange = (values < 0) | (values > _LARGEST)
        if bad is not None:
            strange |= bad
        assert draft.weights is not None
        draft.weights[rows] = np.where(np.isnan(values) | strange, 1.0, values)
        reason = f"weight {self.column!r}: expected a finite number that is not negative"
        return [Fault(reason, strange)] if strange.any() else []


@dataclass(frozen=True, slots=True)
class TimeSlot:
    """The `EventTime`."""

    column: str
    unit: str
    asked: bool = False

    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Read whole seconds; what is bad becomes NaN."""
        seconds, bad = read_seconds(column, self.unit)
        draft.times[rows] = seconds if bad is None else np.where(bad, np.nan, seconds)
        return [] if bad is None else [Fault(f"column {self.column!r}: not a time from 1970 to 2106", bad)]


@dataclass(frozen=True, slots=True)
class GroupSlot:
    """A `Group`."""

    column: str
    salt: int
    asked: bool = False

    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Hash the column."""
        codes = hash_ids(column, self.salt, draft.groups[self.column][rows])
        return [] if codes is None else hash_faults(self.column, codes)


def hash_faults(column: str, codes: npt.NDArray[np.uint8]) -> list[Fault]:
    """Return what is wrong with a column of ids, by the codes of `onstream.core.hash_column`."""
    faults = (Fault(f"column {column!r}: {why}", codes == code) for code, why in _HASH_FAULTS.items())
    return [fault for fault in faults if fault.rows.any()]


def list_faults(
    column: str, max_length: int, lengths: npt.NDArray[np.int64], codes: npt.NDArray[np.uint8] | None
) -> list[Fault]:
    """Return what is wrong with a column of lists, by their lengths and the codes of their elements."""
    faults = []
    too_long = lengths > max_length
    if too_long.any():
        faults.append(Fault(f"column {column!r}: more than {max_length} elements", too_long))
    if codes is not None:
        faults += [Fault(why, segment_sums(bad, lengths) > 0) for why, bad in hash_faults(column, codes)]
    return faults


def number_faults(column: str, bad: Mask | None, too_large: Mask) -> list[Fault]:
    """Return what is wrong with a column of numbers."""
    faults = []
    if bad is not None:
        faults.append(Fault(f"column {column!r}: not a number", bad))
    if too_large.any():
        faults.append(Fault(f"column {column!r}: infinite or too large for float32", too_large))
    return faults


def _pad(keys: Keys, lengths: npt.NDArray[np.int64], out: Keys) -> None:
    """Write the first keys of each row to `out`, (rows, length), whose other places stay as they are."""
    length = out.shape[1]
    if lengths.max(initial=0) > length:
        place = np.arange(len(keys)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        keys = keys[place < length]
    # Both sides go row by row, so the keys meet their places in order.
    out[np.arange(length) < lengths[:, None]] = keys
