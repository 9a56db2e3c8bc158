"""A first guess at what columns mean, for a person to correct."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from onstream.errors import ColumnError, JobError
from onstream.features.columns import read_lists, read_numbers, read_seconds, read_truths
from onstream.features.declarations import (
    DEFAULT_DIM,
    Declaration,
    EventTime,
    Feature,
    Id,
    IdList,
    Label,
    Number,
    Tensor,
    TimeUnit,
    Weight,
)

__all__ = ["guess", "render"]

# Names of labels, surest first; and of weights, times and ids.
_LABEL = ("label", "click", "clicked", "is_click", "target", "y")
_LABEL_PATTERN = re.compile(r"(?i)^is_|_label$|^label_")
_WEIGHT = re.compile(r"(?i)^(sample_?)?weight$")
_TIME = re.compile(r"(?i)^(event_?)?(time|timestamp|ts|date|datetime)$|_(at|time|ts|timestamp)$|^unix")
_ID = re.compile(r"(?i)^id$|_id$|_key$|_code$|^uid$|[a-z]ID$")

# An integer column of at most so many different values names things; of more, it counts them.
_FEW = 100

# Class labels beyond this are more likely numbers.
_MOST_CLASSES = 1000

# Seconds since 1970.
_YEAR_2000, _YEAR_2100 = 946_684_800, 4_102_444_800

# Skewness from which a logarithm is worth it; an exponential distribution has 2.
_SKEWED = 2.0


def guess(schema: pa.Schema, sample: pa.Table) -> list[Declaration]:
    """Guess declarations from the names, the types and a sample of the values of columns.

    Parameters
    ----------
    schema : pyarrow.Schema
    sample : pyarrow.Table
        Some rows; a few thousand are enough.

    Returns
    -------
    list of Declaration
        In the order of the columns, with one label at the end. Columns that no feature can read, that are
        always null, or that are times besides the first, are left out.

    Raises
    ------
    JobError
        If there are fewer than two columns that can be read.

    Notes
    -----
    The label is, in this order: a column with the name of one (label, click, target, y), one that begins with
    "is_", one that holds 0 and 1 and nothing else, the last one that is a number, the last one.
    """
    columns = {name: _column(sample, name) for name in schema.names if name in sample.column_names}
    columns = {name: column for name, column in columns.items() if column.null_count < len(column)}
    label = _label(columns)
    guessed: list[Declaration] = []
    times = 0
    for name, column in columns.items():
        if name == label.name:
            continue
        unit = _time_unit(name, column)
        if unit is not None or _is_time(column.type):
            times += 1
            if times == 1:
                guessed.append(EventTime(name, unit or "s"))
        elif _WEIGHT.search(name) and _numbers(column) is not None:
            guessed.append(Weight(name))
        else:
            feature = _feature(name, column)
            if feature is not None:
                guessed.append(feature)
    if not any(isinstance(d, Feature) for d in guessed):
        raise JobError(f"no column besides {label.name!r} can be read as a feature; there are {schema.names}")
    return [*guessed, label]


def render(declarations: Sequence[Declaration]) -> list[str]:
    """Return each declaration as a line of Python; what is at its default is left out.

    Examples
    --------
    >>> render([Id("user"), Number("price", log=True), Label("stars", "class", classes=6)])
    ['Id("user")', 'Number("price", log=True)', 'Label("stars", "class", classes=6)']
    """
    return [_source(declaration) for declaration in declarations]


def _source(declaration: Declaration) -> str:
    parts = []
    for item in sorted(dataclasses.fields(declaration), key=lambda item: bool(item.kw_only)):
        value = getattr(declaration, item.name)
        usual = item.default
        if item.name == "dim" and value == DEFAULT_DIM and getattr(declaration, "shared", None) is None:
            usual = DEFAULT_DIM
        if value != usual:
            parts.append(_literal(value) if not item.kw_only else f"{item.name}={_literal(value)}")
    return f"{type(declaration).__name__}({', '.join(parts)})"


def _literal(value: Any) -> str:
    # JSON's text is Python's, in the quotes that the formatters prefer.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _column(sample: pa.Table, name: str) -> pa.Array:
    column = sample.column(name).combine_chunks()
    return column if isinstance(column, pa.Array) else column.chunk(0)


def _label(columns: dict[str, pa.Array]) -> Label:
    if len(columns) < 2:
        raise JobError(f"a job needs a label and a feature, got the columns {list(columns)}")
    lowered = {name.lower(): name for name in reversed(columns)}
    named = [lowered[name] for name in _LABEL if name in lowered]
    named += [name for name in columns if _LABEL_PATTERN.search(name)]
    # A column that is always 1 in the sample tells nothing apart: it may be the month of its first rows.
    truths = [
        name
        for name, column in columns.items()
        if _is_truth(column) and pc.count_distinct(column).as_py() > 1
    ]
    numbers = [name for name, column in columns.items() if _numbers(column) is not None]
    candidates = [name for name in named if name in numbers or name in truths]
    candidates += truths[:1] + numbers[-1:] + list(columns)[-1:]
    return _label_of(candidates[0], columns[candidates[0]])


def _label_of(name: str, column: pa.Array) -> Label:
    numbers = _numbers(column)
    required = column.null_count == 0
    if _is_truth(column) or numbers is None:
        return Label(name, required=required)
    whole = pa.types.is_integer(column.type) and numbers.min() >= 0
    if whole and numbers.max() < _MOST_CLASSES and len(np.unique(numbers)) <= _FEW:
        return Label(name, "class", classes=int(numbers.max()) + 1, required=required)
    return Label(name, "real", required=required)


def _feature(name: str, column: pa.Array) -> Feature | None:
    kind = column.type
    if isinstance(kind, pa.FixedShapeTensorType):
        return Tensor(name, tuple(kind.shape))
    if pa.types.is_nested(kind):
        return _list_feature(name, column)
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width > 16:
        return Tensor(name, (kind.byte_width,), scale=1 / 255)
    if pa.types.is_dictionary(kind):
        return Id(name)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _text_feature(name, column)
    numbers = _numbers(column)
    if numbers is None or pa.types.is_boolean(kind):
        return Id(name) if pa.types.is_boolean(kind) or pa.types.is_binary(kind) else None
    whole = bool((numbers == np.floor(numbers)).all())
    if whole and (_ID.search(name) or (pa.types.is_integer(kind) and len(np.unique(numbers)) <= _FEW)):
        return Id(name)
    return Number(name, log=_is_skewed(numbers), standardize=True)


def _text_feature(name: str, column: pa.Array) -> Feature:
    numbers = None if _ID.search(name) else _numbers(column)
    if numbers is not None and len(np.unique(numbers)) > _FEW:
        return Number(name, log=_is_skewed(numbers), standardize=True)
    split = pc.mean(pc.cast(pc.match_substring(column, "|"), pa.int8())).as_py()
    return IdList(name, separator="|") if split >= 0.5 else Id(name)


def _list_feature(name: str, column: pa.Array) -> Feature | None:
    try:
        values, lengths = read_lists(column, None)
    except ColumnError:
        return None
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        return None
    fixed = int(lengths.max(initial=0)) if len(set(lengths.tolist())) == 1 else 0
    if pa.types.is_floating(kind):
        return Tensor(name, (fixed,)) if fixed else None
    if pa.types.is_uint8(kind) and fixed:
        return Tensor(name, (fixed,), scale=1 / 255)
    return None if pa.types.is_nested(kind) else IdList(name)


def _numbers(column: pa.Array) -> npt.NDArray[np.float64] | None:
    """Return what is not null of a column that holds numbers only; None if it holds anything else."""
    try:
        numbers, bad = read_numbers(column)
    except ColumnError:
        return None
    there = numbers[np.isfinite(numbers)]
    return there if bad is None and len(there) else None


def _is_truth(column: pa.Array) -> bool:
    try:
        truths, bad = read_truths(column)
    except ColumnError:
        return False
    return bad is None and set(truths[~np.isnan(truths)].tolist()) in ({0.0, 1.0}, {0.0}, {1.0})


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _time_unit(name: str, column: pa.Array) -> TimeUnit | None:
    """Return the unit in which a column named like a time lies in the years 2000 to 2100; None if in none."""
    if not _TIME.search(name):
        return None
    units: tuple[TimeUnit, ...] = ("s", "ms", "us", "ns")
    for unit in units:
        try:
            seconds, bad = read_seconds(column, unit)
        except ColumnError:
            return None
        there = seconds[~np.isnan(seconds)]
        if bad is None and len(there) and there.min() > _YEAR_2000 and there.max() < _YEAR_2100:
            return unit
    return None


def _is_skewed(numbers: npt.NDArray[np.float64]) -> bool:
    apart = numbers - numbers.mean()
    std = float(apart.std())
    return bool(numbers.min() >= 0 and std > 0 and ((apart / std) ** 3).mean() > _SKEWED)
