"""Requests that differ in their data alone: what their JSON says is read and checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from onstream.serving.oip.bodies import Form, Parsed
from onstream.serving.oip.calls import Ask
from onstream.serving.oip.tensors import Tensor, fixed_type

__all__ = ["Repeats"]

# A client asks in a few forms, by the number of its rows. Longer JSON is that of clients that put data into it.
_FORMS = 64
_LONGEST = 65_536


@dataclass(frozen=True, slots=True)
class _Form:
    """What all requests of one form have in common: everything but the bytes of their columns."""

    ask: Ask
    form: Form
    schema: pa.Schema
    num_rows: int
    columns: tuple[tuple[pa.DataType, int, int], ...]
    size_bytes: int

    def read(self, raw: bytes) -> pa.RecordBatch:
        """Return the columns that lie in `raw`, where those of the first request did."""
        whole = pa.py_buffer(raw)
        arrays = [
            pa.Array.from_buffers(kind, self.num_rows, [None, whole.slice(start, size)])
            for kind, start, size in self.columns
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


class Repeats:
    """The forms of the requests for one model that were answered before, by their JSON.

    Notes
    -----
    The JSON of a request whose columns follow as raw numbers says nothing about their values: if it was found to
    be right once, it is right whenever as many bytes follow. Clients send it again and again.
    """

    def __init__(self) -> None:
        self._forms: dict[bytes, _Form] = {}

    def read(self, head: bytes, raw: bytes) -> tuple[Parsed, pa.RecordBatch] | None:
        """Return what a request asks and its rows, if one of this form was there before."""
        known = self._forms.get(head)
        if known is None or len(raw) != known.size_bytes:
            return None
        # The ask is changed on its way.
        return Parsed(replace(known.ask), known.form), known.read(raw)

    def keep(self, head: bytes, raw: bytes, parsed: Parsed, rows: pa.RecordBatch) -> None:
        """Remember the form of a request that was right, if its columns are plain numbers."""
        columns = _columns(parsed.ask.tensors)
        if columns is None or len(head) > _LONGEST:
            return
        while len(self._forms) >= _FORMS:
            self._forms.pop(next(iter(self._forms)), None)
        ask = replace(parsed.ask, tensors=[])
        self._forms[head] = _Form(ask, parsed.form, rows.schema, rows.num_rows, columns, len(raw))


def _columns(tensors: Sequence[Tensor]) -> tuple[tuple[pa.DataType, int, int], ...] | None:
    """Return type, start and size of each column in the raw bytes; None if not all lie there as Arrow keeps them."""
    columns = []
    at = 0
    for one in tensors:
        kind = fixed_type(one)
        if kind is None or one.raw is None or at % (kind.bit_width // 8):
            return None
        columns.append((kind, at, len(one.raw)))
        at += len(one.raw)
    return tuple(columns)
