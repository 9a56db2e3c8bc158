"""Requests of the tests, and what the tests' model answers to them."""

from typing import Any

import numpy as np

from .linear import worth

USERS = ["anna", "", "bé", "9007199254740993"]
SEEN = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.int64)
PRICES = np.array([0.5, 1.5, np.nan, 2.5], np.float32)
IMAGES = np.arange(24, dtype=np.float32).reshape(4, 2, 3) / 8
HOURS = np.array([[1], [2], [3], [4]], np.int32)


def columns(num_rows: int = 4, first: int = 0) -> dict[str, np.ndarray]:
    """Return columns of the tests' model; rows differ, also from those of another `first`."""
    at = (first + np.arange(num_rows)) % 4
    users = np.array([f"{USERS[one]}{first or ''}" for one in at], object)
    return {
        "user": users,
        "seen": SEEN[at] + first,
        "price": PRICES[at],
        "image": IMAGES[at],
        "hour": HOURS[at],
    }


def expected(given: dict[str, np.ndarray], version: int = 2) -> np.ndarray:
    """Return the ratings of these columns."""
    totals = []
    for row in range(len(given["user"])):
        total = 0.0
        for name, column in sorted(given.items()):
            value = column[row].tolist() if isinstance(column[row], np.ndarray) else column[row]
            if name in ("hour",) and isinstance(value, list):
                value = value[0]
            if isinstance(value, list) and value and isinstance(value[0], list):
                value = [one for inner in value for one in inner]
            if name == "user" and value == "":
                value = None
            total += worth(name, value)
        totals.append(total)
    return np.array(totals).astype(np.float32) * np.float32(version)


def datatype(column: np.ndarray) -> str:
    """Return the protocol's name of a column's type."""
    if column.dtype == object:
        return "BYTES"
    letters = {"i": "INT", "u": "UINT", "f": "FP"}
    return "BOOL" if column.dtype == bool else f"{letters[column.dtype.kind]}{column.dtype.itemsize * 8}"


def inputs(kind: Any, given: dict[str, np.ndarray], *, binary: bool = True) -> list[Any]:
    """Return the inputs for one of tritonclient's modules."""
    made = []
    for name, column in given.items():
        one = kind.InferInput(name, list(column.shape), datatype(column))
        if "http" in kind.__name__:
            one.set_data_from_numpy(column, binary_data=binary)
        else:
            one.set_data_from_numpy(column)
        made.append(one)
    return made


def body(given: dict[str, np.ndarray], **more: Any) -> dict[str, Any]:
    """Return the JSON body for these columns, nested, with null for NaN."""
    return {"inputs": [_json_input(name, column) for name, column in given.items()], **more}


def _json_input(name: str, column: np.ndarray) -> dict[str, Any]:
    values = column.tolist()
    if column.ndim == 1:
        values = [None if value != value else value for value in values]
    return {"name": name, "shape": list(column.shape), "datatype": datatype(column), "data": values}
