"""The C++ core: hashing of Arrow columns, and the embedding table with its row optimizers."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

PARTITIONS: Final[int]
"""Partitions of a table; `Delta.bounds` has one entry more."""

def salt(name: str) -> int:
    """Return the 64-bit salt of a feature's name."""

def hash_value(value: int | float | str | bytes | None, salt: int) -> int:
    """Return the key of one value: the scalar form of `hash_column`. Raises ColumnError for what cannot be an id."""

def hash_column(
    column: Any, salt: int, out: npt.NDArray[np.uint64], max_bytes: int = 65536
) -> npt.NDArray[np.uint8] | None:
    """Hash a column to keys, straight from its Arrow buffers.

    Parameters
    ----------
    column : object with ``__arrow_c_array__``
        Integers, booleans, strings, binaries, floats with whole values, dates, times, timestamps, or a
        dictionary of these.
    salt : int
        Sets apart equal values of different features.
    out : ndarray of uint64, shape (rows,), any stride
        Receives the keys. A null has a key of its own. No key is 0.
    max_bytes : int
        Longest string that is taken.

    Returns
    -------
    ndarray of uint8, shape (rows,), or None
        Why a row has no key: 1, a string longer than `max_bytes`; 2, a float that is no whole number. 0 where
        it has. None when every row has a key.

    Raises
    ------
    ColumnError
        If the column's type cannot be hashed; the message names the type.
    ShapeError
        If `out` has other than the column's number of rows.

    Notes
    -----
    Integers of one feature never share a key. An integer and its canonical decimal text ("-7", "0", "42", not
    "042" or "+42") have the same key, in every integer and string type; so have 5 and 5.0. The GIL is released.
    """

def hash_batch(
    batch: Any,
    columns: npt.NDArray[np.int32],
    salts: npt.NDArray[np.uint64],
    places: npt.NDArray[np.int32],
    out: npt.NDArray[np.uint64],
    max_bytes: int = 65536,
) -> bool:
    """Hash columns of a record batch to keys in one call; what `hash_column` does, without its cost for each column.

    Parameters
    ----------
    batch : object with ``__arrow_c_array__``
        A record batch.
    columns, salts, places : ndarray, shape (n,)
        Column of the batch, its salt, and the column of `out` that receives its keys.
    out : ndarray of uint64, shape (rows, width), contiguous

    Returns
    -------
    bool
        Whether every column could be hashed and every row has a key. If not, `out` is partly written:
        `hash_column` tells what is wrong.
    """

def split_text(
    text: bytes,
    begin: int,
    end: int,
    delimiter: str,
    rows: int,
    num_columns: int,
    columns: list[tuple[int, str]],
) -> list[tuple[int, npt.NDArray[Any] | None, npt.NDArray[Any] | None, npt.NDArray[Any] | None]] | None:
    """Split plain lines into columns, in the layout of Arrow arrays.

    Parameters
    ----------
    text : bytes
        Of which ``text[begin:end]`` are `rows` whole lines; the last may lack its line end.
    delimiter : str
        One ASCII character. There is no quoting.
    num_columns : int
        Values of a line.
    columns : list of (int, str)
        Which values to decode, by their place in a line, and as what: "string", "int8", "int16", "int32",
        "int64" or "double". An empty value is a null.

    Returns
    -------
    list of (nulls, validity, offsets, values), or None
        For each wanted column the number of nulls, the bitmap of what is there (None without nulls), for strings
        the int32 offsets, and the bytes of the values (None when there are none). None unless every line is
        plain: ASCII without carriage returns, the right number of values, numbers in the simplest form.

    Notes
    -----
    The GIL is released.
    """

def decode_json(
    texts: Sequence[bytes] | bytes,
    fields: list[tuple[str, str, bool]],
    max_depth: int,
    starts: npt.NDArray[np.int64] | None = None,
    ends: npt.NDArray[np.int64] | None = None,
) -> tuple[int, list[tuple[Any, ...]], list[tuple[int, int, int]]]:
    """Decode JSON objects into columns, in the layout of Arrow arrays.

    Parameters
    ----------
    texts : sequence of bytes, or bytes
        With `starts` and `ends`, text `i` is ``texts[starts[i]:ends[i]]``. Together smaller than 2 GiB.
    fields : list of (str, str, bool)
        Name of a field, each once; as what it is decoded: "bool", "int8" to "int64", "uint8" to "uint64", "float",
        "double", "string", or "json" (any value, as the text that it is, on one line); whether as a list of it.
    max_depth : int
        How deep objects and lists may be nested; the object itself has depth 1. At most 512 keeps the stack small.

    Returns
    -------
    rows : int
    columns : list of tuple
        For each field (count, nulls, validity, offsets, values, children): the number of values and of nulls, the
        bitmap of what is there (None without nulls), the int32 offsets of strings and lists, the bytes of the values
        (None if there are none), and a list of the same tuples for what lists and structs hold.
    rejects : list of (int, int, int)
        Text, why it is no row, and the first field to blame, else -1. 1: it is not valid JSON (RFC 8259, in UTF-8,
        no lone surrogates). 2: valid, but no object. 3: nested too deep. 4: a field is given twice. 5: a value is not
        of its field's type.

    Raises
    ------
    ShapeError
        If the texts are no bytes, are too large, or lie outside.

    Notes
    -----
    Missing fields and null are nulls; fields that are not wanted are checked and skipped. Numbers with a point or an
    exponent are no integers; floats are rounded to the nearest, and those too large for their type do not fit. The
    GIL is released.
    """

def decode_avro(
    texts: Sequence[bytes], record: tuple[Any, ...]
) -> tuple[int, list[tuple[Any, ...]], list[tuple[int, int]]]:
    """Decode binary Avro records into columns, in the layout of Arrow arrays.

    Parameters
    ----------
    texts : sequence of bytes
        One record each. Together smaller than 2 GiB.
    record : tuple
        How a value is written and what it becomes: (kind, wanted, target, size, symbols, children). `kind` is the name
        of a type of Avro, or "union". `wanted` says whether a field of a record becomes a column. `target` is "" for
        null, "bool", "int32", "int64", "float", "double", "text", "fixed", "list" or "struct"; all branches of a
        union have its own. `size` is that of a "fixed", `symbols` are those of an "enum", `children` the fields,
        branches, or what an array or map holds.

    Returns
    -------
    rows : int
    columns : list of tuple
        For each wanted field, as `decode_json` returns them. A map is a list of structs of key and value.
    rejects : list of (int, int)
        Text, and why it is no row. 1: it ends too early. 2: it goes on after the record. 3: it holds what its type
        cannot be. 4: a string is not UTF-8.

    Raises
    ------
    ShapeError
        If the texts are no bytes or are too large, or the record cannot become columns: an array of values without
        bytes, or a union whose values have no column in common.

    Notes
    -----
    The GIL is released.
    """

class Plan:
    """What the keys of a batch tell before any row is looked at: where each partition's are, which are the same."""

    def __init__(self, keys: npt.NDArray[np.uint64]) -> None:
        """Work it out, in this thread; the GIL is released."""

    def __len__(self) -> int:
        """Return the number of keys, repetitions included."""

class Table:
    """Rows of float32 by 64-bit key, each with the state of its optimizer, last-seen time and count.

    `onstream.tables.Table` is the form for users; see there for the meaning of each argument. Methods release
    the GIL; concurrent calls wait for each other.
    """

    @property
    def dim(self) -> int: ...
    @property
    def state_width(self) -> int: ...
    def __init__(
        self,
        dim: int,
        slices: list[dict[str, Any]],
        initial: dict[str, Any],
        admission: dict[str, Any] | None,
        ttl_s: int,
        seed: int,
        threads: int,
    ) -> None: ...
    def pull(
        self, keys: npt.NDArray[np.uint64], out: npt.NDArray[np.float32], now: int, learn: bool
    ) -> None: ...
    def pull_planned(self, plan: Plan, out: npt.NDArray[np.float32], now: int) -> None: ...
    def push(self, keys: npt.NDArray[np.uint64], grads: npt.NDArray[np.float32]) -> None: ...
    def push_planned(self, plan: Plan, grads: npt.NDArray[np.float32]) -> None: ...
    def cut(self, candidates: bool, all: bool) -> tuple[Any, ...]:
        """Return (keys, seen, count, weights, state, deleted, bounds, deleted_bounds)."""

    def evict(self, now: int, max_rows: int) -> int: ...
    def load(
        self,
        candidates: bool,
        keys: npt.NDArray[np.uint64],
        seen: npt.NDArray[np.uint32],
        count: npt.NDArray[np.uint32],
        weights: npt.NDArray[np.float32],
        state: npt.NDArray[np.float32],
        touched: bool,
        newer_only: bool,
    ) -> None: ...
    def begin_states(self, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return what the optimizers remember of rows that begin with these weights: (n, dim) to (n, width)."""

    def remove(self, candidates: bool, keys: npt.NDArray[np.uint64]) -> int: ...
    def admission_state(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
        """Return the cells of the count-min sketch, and counters of draws."""

    def load_admission_state(
        self, sketch: npt.NDArray[np.uint8], counters: npt.NDArray[np.uint64]
    ) -> None: ...
    def __len__(self) -> int: ...
    def num_candidates(self) -> int: ...
    def size_bytes(self) -> int: ...
