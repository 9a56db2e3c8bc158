"""Tensors of BYTES as columns of texts.

An element is its length, a little-endian uint32, and then its bytes. Where an element begins is known only from
the one before it, so a plain reading takes elements one by one. Ids are short texts without NUL bytes, though,
and then the zeros of the lengths give the beginnings away, all at once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.errors import RequestError

__all__ = ["Framed", "read_texts"]

_LENGTH = struct.Struct("<I")

# Below this many elements, the loop is done before numpy's calls have begun.
_FEW = 256


class Framed(NamedTuple):
    """The elements of one input as they were sent: bytes of any buffer, and how many elements they hold."""

    name: str
    raw: bytes | memoryview
    elements: int


def read_texts(inputs: Sequence[Framed]) -> list[pa.Array]:
    """Return one column of texts for each input, null where an element is empty.

    Raises
    ------
    RequestError
        If an input holds other than `elements` elements, or bytes that are not UTF-8.

    Notes
    -----
    O(bytes) time and memory; nothing is allocated by a length that is only claimed.
    """
    for one in inputs:
        if len(one.raw) < _LENGTH.size * one.elements:
            raise RequestError(
                f"input {one.name!r} has {one.elements} elements by its shape, but its {len(one.raw)} bytes cannot "
                f"hold as many lengths"
            )
    raw = inputs[0].raw if len(inputs) == 1 else b"".join(one.raw for one in inputs)
    octets = np.frombuffer(raw, np.uint8)
    total = sum(one.elements for one in inputs)
    starts = _find(octets, inputs) if total >= _FEW else None
    if starts is None:
        starts = _walk(raw, inputs)
    texts = _texts(octets, starts)
    columns = []
    at = 0
    for one in inputs:
        columns.append(texts.slice(at, one.elements))
        at += one.elements
    _check_utf8(texts, columns, inputs)
    return columns


def _walk(raw: bytes | memoryview, inputs: Sequence[Framed]) -> npt.NDArray[np.int64]:
    """Return where each element begins, from one to the next."""
    starts = []
    at = end = 0
    length_at = _LENGTH.unpack_from
    for one in inputs:
        end += len(one.raw)
        try:
            for _ in range(one.elements):
                starts.append(at)
                at += _LENGTH.size + length_at(raw, at)[0]
        except struct.error:
            at = -1
        if at != end:
            raise RequestError(
                f"input {one.name!r}: the lengths of its {one.elements} elements do not add up to its "
                f"{len(one.raw)} bytes; each element is a little-endian uint32 length and as many bytes"
            )
    return np.array(starts, np.int64)


def _find(octets: npt.NDArray[np.uint8], inputs: Sequence[Framed]) -> npt.NDArray[np.int64] | None:
    """Return where each element begins, or None if elements are long, hold NUL bytes, or do not add up.

    Three zeros in a row are then the upper bytes of the length of an element, and four, or a multiple of it, are
    the lengths of empty ones. What is found is checked from end to end, so it is what `_walk` would return.
    """
    # A border at each end makes every run of zeros begin and end with a change.
    zero = np.zeros(len(octets) + 2, np.int8)
    np.equal(octets, 0, out=zero[1:-1], casting="unsafe")
    changes = np.flatnonzero(zero[1:] != zero[:-1])
    runs, lengths = changes[::2], changes[1::2] - changes[::2]
    filled = lengths == 3
    if filled.all():
        starts = runs - 1
    else:
        repeats = np.where(filled, 1, lengths // 4)
        first = np.cumsum(repeats) - repeats
        steps = np.arange(first[-1] + repeats[-1]) - np.repeat(first, repeats)
        starts = np.repeat(runs - filled, repeats) + _LENGTH.size * steps
    counts = np.cumsum([one.elements for one in inputs])
    if len(starts) != counts[-1] or starts[0] != 0:
        return None
    ends = starts + octets[starts] + _LENGTH.size
    if ends[-1] != len(octets) or not np.array_equal(ends[:-1], starts[1:]):
        return None
    if np.any(octets[starts + 1] | octets[starts + 2] | octets[starts + 3]):
        return None
    borders = np.cumsum([len(one.raw) for one in inputs])
    return starts if np.array_equal(ends[counts - 1], borders) else None


def _texts(octets: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64]) -> pa.Array:
    """Return all elements as one column: their bytes without the lengths between them."""
    offsets = np.zeros(len(starts) + 1, np.int32)
    ends = np.append(starts[1:], len(octets))
    lengths = ends - starts - _LENGTH.size
    np.cumsum(lengths, out=offsets[1:])
    keep = np.ones(len(octets), bool)
    for byte in range(_LENGTH.size):
        keep[starts + byte] = False
    valid = None
    if not lengths.all():
        valid = pa.py_buffer(np.packbits(lengths != 0, bitorder="little"))
    buffers: list[Any] = [valid, pa.py_buffer(offsets), pa.py_buffer(octets[keep])]
    return pa.Array.from_buffers(pa.string(), len(starts), buffers)


def _check_utf8(texts: pa.Array, columns: Sequence[pa.Array], inputs: Sequence[Framed]) -> None:
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        for column, one in zip(columns, inputs, strict=True):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid:
                raise RequestError(f"input {one.name!r} holds bytes that are not UTF-8 text") from None
        raise
