"""Requests that differ in their data alone: what their JSON says is read and checked once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pyarrow as pa

from onstream.serving.oip.bodies import Form, Parsed
from onstream.serving.oip.calls import Ask
from onstream.serving.oip.tensors import Tensor, TensorReader, fixed_type

__all__ = ["MessageRepeats", "Repeated", "Repeats"]

# The tag of field 7, which has a length: `raw_input_contents`.
_RAW_CONTENTS = bytes([7 << 3 | 2])

# A client asks in a few forms, by the number of its rows. Longer JSON is that of clients that put data into it.
_FORMS = 64
_LONGEST = 65_536


class _Run(NamedTuple):
    """Columns of one type that follow each other in the raw bytes, from `start` on."""

    kind: pa.DataType
    columns: int
    start: int


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where plain columns lie in the raw bytes of a request.

    Attributes
    ----------
    schema : pyarrow.Schema
    num_rows : int
    runs : tuple of _Run
    message : bytes, optional
        What with the raw bytes behind it is a record batch as Arrow writes it; None where it would put gaps between
        the columns. Arrow reads forty columns so in a sixth of the time.
    """

    schema: pa.Schema
    num_rows: int
    runs: tuple[_Run, ...]
    message: bytes | None

    @staticmethod
    def of(tensors: Sequence[Tensor], rows: pa.RecordBatch) -> _Columns | None:
        """Return where the columns of a request lie; None if not all lie there as Arrow keeps them."""
        runs = _runs(tensors, rows.schema)
        if runs is None:
            return None
        written = rows.serialize()
        body = pa.ipc.read_message(written).body
        # As long as the raw bytes, it is these: the columns follow each other, in the same order.
        dense = body.size == sum(len(one.raw or b"") for one in tensors)
        message = written.to_pybytes()[: -body.size] if dense else None
        return _Columns(rows.schema, rows.num_rows, runs, message)

    def read(self, *parts: bytes | memoryview) -> pa.RecordBatch:
        """Return the columns that lie in these raw bytes."""
        if self.message is None:
            return _batch(b"".join(parts), self.runs, self.num_rows, self.schema)
        return pa.ipc.read_record_batch(pa.py_buffer(b"".join((self.message, *parts))), self.schema)


@dataclass(frozen=True, slots=True)
class _Form:
    """What all requests of one form have in common: everything but the bytes of their columns."""

    ask: Ask
    form: Form
    columns: _Columns
    size_bytes: int


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
        return Parsed(replace(known.ask), known.form), known.columns.read(raw)

    def keep(self, head: bytes, raw: bytes, parsed: Parsed, rows: pa.RecordBatch) -> None:
        """Remember the form of a request that was right, if its columns are plain numbers."""
        columns = _Columns.of(parsed.ask.tensors, rows)
        if columns is None or len(head) > _LONGEST:
            return
        while len(self._forms) >= _FORMS:
            self._forms.pop(next(iter(self._forms)), None)
        ask = replace(parsed.ask, tensors=[])
        self._forms[head] = _Form(ask, parsed.form, columns, len(raw))


@dataclass(frozen=True, slots=True)
class Repeated:
    """A message of a known form: what it asks, and its rows."""

    model: str
    version: str
    ask: Ask
    rows: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class _MessageForm:
    """What all messages of one form have in common: how they begin, and where their columns lie."""

    model: str
    version: str
    reader: TensorReader
    ask: Ask
    columns: _Columns
    head: bytes
    marks: tuple[bytes, ...]
    sizes: tuple[int, ...]

    def read(self, data: bytes) -> pa.RecordBatch | None:
        """Return the columns of a message of this length, or None if it is of another form."""
        if not data.startswith(self.head):
            return None
        view = memoryview(data)
        at = len(self.head)
        parts = []
        for mark, size in zip(self.marks, self.sizes, strict=True):
            begin = at + len(mark)
            if view[at:begin] != mark:
                return None
            at = begin + size
            parts.append(view[begin:at])
        return self.columns.read(*parts)


class MessageRepeats:
    """The forms of the messages that were answered before: such a message needs no parsing.

    Notes
    -----
    Raw contents are the last fields of a message, so all that it says of them comes before. A message that begins
    with the same bytes and has raw contents of the same sizes differs in the values of its columns alone.
    """

    def __init__(self) -> None:
        self._forms: dict[tuple[int, bytes], _MessageForm] = {}
        self._by_size: dict[int, tuple[_MessageForm, ...]] = {}

    def read(self, data: bytes, reader: Callable[[str], TensorReader]) -> Repeated | None:
        """Return what a message asks, if one of its form was there before.

        Parameters
        ----------
        data : bytes
        reader : callable
            Returns the reader of a model's inputs: a form counts for as long as that stays the same.
        """
        for form in self._by_size.get(len(data), ()):
            if (rows := form.read(data)) is not None and reader(form.model) is form.reader:
                return Repeated(form.model, form.version, replace(form.ask), rows)
        return None

    def keep(
        self, data: bytes, named: tuple[str, str], reader: TensorReader, ask: Ask, rows: pa.RecordBatch
    ) -> None:
        """Remember the form of a message that was right, if its columns are plain numbers at its end.

        Parameters
        ----------
        data : bytes
        named : tuple of (str, str)
            The model and the version that it names.
        reader : TensorReader
        ask : Ask
        rows : pyarrow.RecordBatch
        """
        columns = _Columns.of(ask.tensors, rows)
        if columns is None:
            return
        sizes = tuple(len(one.raw or b"") for one in ask.tensors)
        marks = tuple(_RAW_CONTENTS + _varint(size) for size in sizes)
        head = data[: len(data) - sum(sizes) - sum(map(len, marks))]
        if len(head) > _LONGEST:
            return
        kept = replace(ask, tensors=[])
        form = _MessageForm(*named, reader, kept, columns, head, marks, sizes)
        # Fields may come in any order: only those that are where they are expected can be found again.
        again = form.read(data)
        if again is None or not again.equals(rows):
            return
        self._forms[len(data), head] = form
        while len(self._forms) > _FORMS:
            self._forms.pop(next(iter(self._forms)))
        by_size: dict[int, tuple[_MessageForm, ...]] = {}
        for (size, _), one in self._forms.items():
            by_size[size] = (*by_size.get(size, ()), one)
        self._by_size = by_size


def _runs(tensors: Sequence[Tensor], schema: pa.Schema) -> tuple[_Run, ...] | None:
    """Return how columns lie in the raw bytes; None if not all lie there as Arrow keeps them."""
    runs: list[_Run] = []
    at = 0
    for one, field in zip(tensors, schema, strict=True):
        kind = fixed_type(one)
        # A list of one element, or a block of one, has the shape of a plain column, and is none.
        if kind != field.type or one.raw is None or at % (kind.bit_width // 8):
            return None
        if runs and runs[-1].kind == kind:
            runs[-1] = runs[-1]._replace(columns=runs[-1].columns + 1)
        else:
            runs.append(_Run(kind, 1, at))
        at += len(one.raw)
    return tuple(runs)


def _batch(raw: bytes, runs: Sequence[_Run], num_rows: int, schema: pa.Schema) -> pa.RecordBatch:
    """Return the columns that lie in `raw`."""
    whole = pa.py_buffer(raw)
    arrays = []
    for kind, columns, start in runs:
        # An array is checked when it is made, a slice of one is not: with many columns that is most of the time.
        values = columns * num_rows
        buffer = whole.slice(start, values * (kind.bit_width // 8))
        run = pa.Array.from_buffers(kind, values, [None, buffer])
        arrays += [run.slice(begin, num_rows) for begin in range(0, values, num_rows)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _varint(number: int) -> bytes:
    """Return a number as Protocol Buffers write it: seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
