"""Vowpal Wabbit text: a label, then features in namespaces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from onstream.errors import JobError
from onstream.streams.parsing.sparse_text import is_number, parse_sparse, to_numbers, tokens, trimmed
from onstream.streams.parsing.text import Lines

__all__ = ["INFERRED_FROM", "VowpalWabbitParser", "namespaces_in", "namespaces_of"]

INFERRED_FROM = 1000
"""Of how many lines the namespaces are looked at."""

_ANONYMOUS = "features"
_VALUES = ".values"
_BEGINNING = ("label", "weight", "tag")
_NAME_LISTS = pa.list_(pa.string())
_VALUE_LISTS = pa.list_(pa.float32())
_MAX_NAMESPACES = 256
_MAX_LABEL_WORDS = 3


def namespaces_in(schema: pa.Schema) -> tuple[str, ...]:
    """Return the namespaces that the columns of a schema belong to."""
    found: dict[str, None] = {}
    for column in schema:
        if column.name not in _BEGINNING:
            name = column.name.removesuffix(_VALUES) if column.type == _VALUE_LISTS else column.name
            found["" if name == _ANONYMOUS else name.removeprefix("|")] = None
    return tuple(found)


def namespaces_of(lines: Sequence[bytes]) -> tuple[str, ...]:
    """Return the namespaces of those lines that are examples, in the order in which they appear.

    Of these the first 256, which is as many as Vowpal Wabbit has. One that is called as the values of another is left
    out.
    """
    found: dict[str, None] = {}
    for line in lines:
        if _complaint(line.strip()) is None:
            for segment in line.split(b"|")[1:]:
                if segment.strip():
                    anonymous = segment[:1].isspace()
                    found["" if anonymous else segment.split()[0].partition(b":")[0].decode()] = None
    values = {_column_names(name)[1] for name in found}
    return tuple(itertools.islice((n for n in found if _column_names(n)[0] not in values), _MAX_NAMESPACES))


class VowpalWabbitParser:
    """Parses lines of one example each.

    Parameters
    ----------
    namespaces : sequence of str
        Of which the features are read; "" is that without a name. Others are checked and skipped.
    columns : tuple of str, optional
        Give only these.

    Raises
    ------
    JobError
        If two columns would have one name.

    Notes
    -----
    The value of a feature is its own, 1 if it has none, times that of its namespace. Features of a namespace that
    stands twice in a line are put together.

    References
    ----------
    https://github.com/VowpalWabbit/vowpal_wabbit/wiki/Input-format: the last word before the first bar is the tag if
    it touches the bar or begins with a single quote; before it stand label, importance and initial prediction.
    """

    def __init__(self, namespaces: Sequence[str], columns: tuple[str, ...] | None = None) -> None:
        self._namespaces = tuple(namespaces)
        kinds = [("label", pa.float32()), ("weight", pa.float32()), ("tag", pa.string())]
        for namespace in self._namespaces:
            names, values = _column_names(namespace)
            kinds += [(names, _NAME_LISTS), (values, _VALUE_LISTS)]
        twice = {name for name, _ in kinds if sum(name == other for other, _ in kinds) > 1}
        if twice:
            raise JobError(f"namespaces: the column {min(twice)!r} would be there twice")
        self.schema = pa.schema([(n, kind) for n, kind in kinds if columns is None or n in columns])

    def parse(self, lines: Lines) -> tuple[pa.RecordBatch, dict[int, str]]:
        """Return the rows of the good lines, and why each bad one is bad, by the line's index."""
        return parse_sparse(lines, self.schema, self._parse, _complaint)

    def _parse(self, texts: pa.Array) -> pa.RecordBatch:
        """Return a row for each text."""
        texts.validate(full=True)
        lists = pc.split_pattern(texts, "|")
        offsets = lists.offsets.to_numpy().astype(np.int64)
        if np.any(np.diff(offsets) < 2):
            raise pa.ArrowInvalid("a line has no bar")
        flat = lists.flatten()
        first = np.zeros(len(flat), bool)
        first[offsets[:-1]] = True
        columns = _beginnings(flat.filter(pa.array(first)))
        rows = np.repeat(np.arange(len(texts)), np.diff(offsets) - 1)
        columns |= self._features(flat.filter(pa.array(~first)), rows, len(texts))
        return pa.RecordBatch.from_arrays([columns[name] for name in self.schema.names], schema=self.schema)

    def _features(
        self, segments: pa.Array, rows: npt.NDArray[np.int64], num_rows: int
    ) -> dict[str, pa.Array]:
        """Return the columns of all namespaces, from what stands behind the bars of the lines `rows`."""
        anonymous = _begins_with_space(segments)
        words, offsets = tokens(trimmed(segments))
        counts = np.diff(offsets)
        # The first word touches the bar: it names the namespace.
        named = ~anonymous & (counts > 0)
        is_name = np.zeros(len(words), bool)
        is_name[offsets[:-1][named]] = True
        names, scales, _ = _split_values(words.filter(pa.array(is_name)))
        spaces = np.full(len(segments), -1)
        known = pa.array(self._namespaces, pa.string())
        spaces[named] = pc.index_in(names, value_set=known).fill_null(-1).to_numpy(zero_copy_only=False)
        if "" in self._namespaces:
            spaces[~named] = self._namespaces.index("")
        scale = np.ones(len(segments), np.float32)
        scale[named] = scales
        features, values, plain = _split_values(words.filter(pa.array(~is_name)))
        if pc.any(pc.equal(features, "")).as_py():
            raise pa.ArrowInvalid("a feature has no name")
        owner = np.repeat(np.arange(len(segments)), counts - named)
        values = values * scale[owner]
        if not (plain and not named.any()) and not np.isfinite(values).all():
            raise pa.ArrowInvalid("a value is not finite")
        # Features in the order of namespaces, and within one in the order in which they stand.
        order = np.argsort(spaces[owner].astype(np.int32), kind="stable")
        bounds = np.searchsorted(spaces[owner][order], np.arange(len(self._namespaces) + 1))
        columns = {}
        for i, namespace in enumerate(self._namespaces):
            chosen = order[bounds[i] : bounds[i + 1]]
            lengths = np.bincount(rows[owner[chosen]], minlength=num_rows)
            starts = pa.array(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32))
            name, its_values = _column_names(namespace)
            columns[name] = pa.ListArray.from_arrays(starts, features.take(pa.array(chosen)))
            columns[its_values] = pa.ListArray.from_arrays(starts, pa.array(values[chosen]))
        return columns


def _column_names(namespace: str) -> tuple[str, str]:
    """Return the columns of the names and of the values of a namespace's features."""
    name = namespace or _ANONYMOUS
    # A namespace may be called as one of the other columns.
    name = f"|{name}" if name in _BEGINNING or (namespace and name == _ANONYMOUS) else name
    return name, f"{name}{_VALUES}"


def _beginnings(heads: pa.Array) -> dict[str, pa.Array]:
    """Return label, weight and tag, from what stands before the first bars."""
    stripped = trimmed(heads)
    words, offsets = tokens(stripped)
    counts = np.diff(offsets)
    some = counts > 0
    last = np.where(some, offsets[1:] - 1, 0)
    # pyarrow's "take" gives null for null.
    latest = words.take(pa.array(last, mask=~some)) if len(words) else pa.nulls(len(heads), pa.string())
    touches = ~_ends_with_space(heads)
    quoted = pc.starts_with(latest, "'").fill_null(False).to_numpy(zero_copy_only=False)
    tagged = some & (touches | quoted)
    tags = pc.if_else(pa.array(tagged), latest, None)
    tags = pc.if_else(pc.starts_with(tags, "'"), pc.utf8_slice_codeunits(tags, 1), tags)
    counts = counts - tagged
    if np.any(counts > _MAX_LABEL_WORDS):
        raise pa.ArrowInvalid("too many words before the bar")
    columns = []
    for place, missing in enumerate((np.nan, 1.0, 0.0)):
        there = counts > place
        column = np.full(len(heads), missing, np.float32)
        column[there] = to_numbers(words.take(pa.array(offsets[:-1][there] + place)))
        columns.append(column)
    label, weight, _ = columns
    return {"label": pa.array(label, mask=counts == 0), "weight": pa.array(weight), "tag": tags}


def _split_values(words: pa.Array) -> tuple[pa.Array, npt.NDArray[np.float32], bool]:
    """Return names and values of words such as ``name:0.5``, and whether none has a value, which then is 1."""
    values = np.ones(len(words), np.float32)
    has = pc.match_substring(words, ":").to_numpy(zero_copy_only=False) if len(words) else np.zeros(0, bool)
    if not has.any():
        return words, values, True
    lists = pc.split_pattern(words, ":")
    offsets = lists.offsets.to_numpy().astype(np.int64)
    if np.any(np.diff(offsets) > 2):
        raise pa.ArrowInvalid("a word has more than one colon")
    parts = lists.flatten()
    values[has] = to_numbers(parts.take(pa.array(offsets[1:][has] - 1)))
    return parts.take(pa.array(offsets[:-1])), values, False


def _begins_with_space(texts: pa.Array) -> npt.NDArray[np.bool_]:
    """Return whether each text begins with a space; an empty one counts as if."""
    found: npt.NDArray[np.bool_] = pc.not_equal(pc.ascii_ltrim_whitespace(texts), texts).to_numpy(
        zero_copy_only=False
    )
    return found


def _ends_with_space(texts: pa.Array) -> npt.NDArray[np.bool_]:
    """Return whether each text ends with a space."""
    found: npt.NDArray[np.bool_] = pc.not_equal(pc.ascii_rtrim_whitespace(texts), texts).to_numpy(
        zero_copy_only=False
    )
    return found


def _complaint(line: bytes) -> str | None:
    """Say why one line is no example; None if it is one."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return "a line is not text in UTF-8"
    head, bar, rest = line.partition(b"|")
    if not bar:
        return "a line without a bar"
    words = head.split()
    if words and (not head[-1:].isspace() or words[-1].startswith(b"'")):
        words.pop()
    if len(words) > _MAX_LABEL_WORDS:
        return f"more than {_MAX_LABEL_WORDS} words before the bar"
    if not all(map(is_number, words)):
        return "the label, its weight or its base is not a number"
    for segment in rest.split(b"|"):
        why = _segment_complaint(segment)
        if why is not None:
            return why
    return None


def _segment_complaint(segment: bytes) -> str | None:
    """Say what is wrong with one namespace and its features; None if nothing is."""
    words = segment.split()
    scale = np.float32(1.0)
    for i, word in enumerate(words):
        name, colon, value = word.partition(b":")
        is_namespace = i == 0 and not segment[:1].isspace()
        if colon and not is_number(value):
            return "a value is not a number"
        if is_namespace:
            scale = np.float32(value or 1)
        elif not name:
            return "a feature without a name"
        else:
            with np.errstate(over="ignore"):
                if not np.isfinite(np.float32(value or 1) * scale):
                    return "a value is not a number"
    return None
