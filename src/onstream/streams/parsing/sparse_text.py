"""What the parsers of sparse text share: lines as an array, tokens between spaces, and numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from onstream.streams.chunks import no_rows
from onstream.streams.parsing.text import Lines

__all__ = ["is_index", "is_number", "parse_sparse", "to_indices", "to_numbers", "tokens", "trimmed"]

Offsets = npt.NDArray[np.int64]

# What pyarrow casts to a number, but for infinity and "nan".
_NUMBER = re.compile(rb"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_INDEX = re.compile(rb"\d+")
_LARGEST_INDEX = 2**63 - 1
_MAX_INDEX_DIGITS = 19


def parse_sparse(
    lines: Lines,
    schema: pa.Schema,
    parse: Callable[[pa.Array], pa.RecordBatch],
    complaint: Callable[[bytes], str | None],
) -> tuple[pa.RecordBatch, dict[int, str]]:
    """Return the rows of the good lines, and why each bad one is bad, by the line's index.

    Parameters
    ----------
    parse : callable
        Makes a row of each line, without spaces around it. Raises pyarrow.ArrowInvalid if one is bad.
    complaint : callable
        Says why one line is bad; None if it is not: the same judgement, a line at a time.
    """
    texts = trimmed(_as_array(lines))
    try:
        return parse(texts), {}
    except pa.ArrowInvalid:
        pass
    complaints = ((i, complaint(lines.line(i).strip(_SPACES))) for i in range(len(lines)))
    bad = {i: why for i, why in complaints if why is not None}
    good = np.delete(np.arange(len(lines)), list(bad))
    return parse(texts.take(pa.array(good))) if len(good) else no_rows(schema), bad


_SPACES = b" \t\n\r\v\f"


def trimmed(texts: pa.Array) -> pa.Array:
    """Return texts without spaces around them."""
    return pc.ascii_trim_whitespace(texts)


def tokens(texts: pa.Array) -> tuple[pa.Array, Offsets]:
    """Return what stands between spaces in trimmed texts, and where the tokens of each text begin, int64 (n + 1,)."""
    if not len(texts):
        return pa.array([], pa.string()), np.zeros(1, np.int64)
    lists = pc.ascii_split_whitespace(texts)
    flat, offsets = lists.flatten(), lists.offsets.to_numpy().astype(np.int64)
    empty = pc.equal(texts, "")
    if not pc.any(empty).as_py():
        return flat, offsets
    # An empty text is one empty token to pyarrow.
    counts = np.diff(offsets) * ~empty.to_numpy(zero_copy_only=False)
    return flat.filter(pc.not_equal(flat, "")), np.concatenate(([0], np.cumsum(counts)))


def to_numbers(texts: pa.Array) -> npt.NDArray[np.float32]:
    """Return texts as finite numbers. Raises pyarrow.ArrowInvalid if one is none."""
    made: npt.NDArray[np.float32] = pc.cast(texts, pa.float32()).to_numpy(zero_copy_only=False)
    if not np.isfinite(made).all():
        raise pa.ArrowInvalid("a number is not finite")
    return made


def to_indices(texts: pa.Array) -> pa.Array:
    """Return texts as whole numbers from 0 on. Raises pyarrow.ArrowInvalid if one is none."""
    if not len(texts):
        return pa.array([], pa.int64())
    # pyarrow takes hexadecimal numbers too, and negative ones.
    if not pc.all(pc.ascii_is_decimal(texts)).as_py():
        raise pa.ArrowInvalid("an index is not made of digits")
    return pc.cast(texts, pa.int64())


def is_number(text: bytes) -> bool:
    """Return whether `to_numbers` takes a text."""
    with np.errstate(over="ignore"):
        return bool(_NUMBER.fullmatch(text)) and math.isfinite(np.float32(float(text)))


def is_index(text: bytes) -> bool:
    """Return whether `to_indices` takes a text."""
    digits = text.lstrip(b"0") or b"0"
    return bool(_INDEX.fullmatch(text)) and len(digits) <= _MAX_INDEX_DIGITS and int(digits) <= _LARGEST_INDEX


def _as_array(lines: Lines) -> pa.Array:
    """Return lines as an array of strings, which may not be UTF-8."""
    data, starts, ends = lines.data, lines.starts, lines.ends
    if not np.array_equal(starts[1:], ends[:-1]):
        data = lines.join(list(range(len(lines))))
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
        starts = np.concatenate(([0], ends[:-1]))
    first = int(starts[0])
    offsets = np.concatenate((starts, ends[-1:])) - first
    if offsets[-1] >= 2**31:
        raise pa.ArrowCapacityError("lines of one call must be smaller than 2 GiB")
    buffers = [
        None,
        pa.py_buffer(offsets.astype(np.int32)),
        pa.py_buffer(data).slice(first, int(offsets[-1])),
    ]
    return pa.Array.from_buffers(pa.string(), len(lines), buffers)
