"""Decimals as Avro writes them: whole numbers in two's complement, the largest byte first."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["to_decimals"]

_WIDTH = 16


def to_decimals(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return bytes as decimals.

    Parameters
    ----------
    values : pyarrow.Array of binary, of any or of one length
    kind : pyarrow.Decimal128Type

    Raises
    ------
    pyarrow.ArrowInvalid
        If one has no bytes, more than 16, or more digits than its precision.
    """
    values = values.cast(pa.binary())
    lengths = pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    if np.any(valid & ((lengths == 0) | (lengths > _WIDTH))):
        raise pa.ArrowInvalid(f"a decimal must have 1 to {_WIDTH} bytes")
    made = np.zeros((len(values), _WIDTH), np.uint8)
    for length in np.unique(lengths[valid]).tolist():
        rows = np.flatnonzero(valid & (lengths == length))
        data = np.frombuffer(b"".join(values.take(pa.array(rows)).to_pylist()), np.uint8).reshape(-1, length)
        made[rows, :length] = data[:, ::-1]
        made[rows, length:] = np.where(data[:, :1] >= 128, 255, 0)
    # The mask is copied: that of a slice may begin within a byte.
    validity = pa.array(valid).buffers()[1]
    array = pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(made)])
    array.validate(full=True)
    return array
