"""Leaving out negatives: where feedback is rare, a share of the rows without it teaches nearly as much."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from onstream.contracts import Chunk, Positions, Stream
from onstream.errors import ColumnError, JobError
from onstream.feedback import Policy, chosen, labelling_of
from onstream.streams.around import Around
from onstream.streams.chunks import row_ends

__all__ = ["Sample"]

# An array of Arrow would import pandas, where that is installed, each time that a command starts.
_NEGATIVE_TEXTS = ("0", "false", "False", "FALSE")


class Sample(Around):
    r"""Keep all rows of a stream whose label is positive, and a share of the others.

    Which negatives are kept follows from what they are called, so every replay keeps the same. What is predicted
    needs no thought: the learner adds the log of the share to its logits, which makes odds of the sample those of the
    whole stream, in the trainer and wherever the model is served; and metrics count each kept negative for all that
    it stands for.

    Parameters
    ----------
    stream : Stream
        Any, a `Join` too.
    label : str
        The column of a binary label, of 0 and 1; nulls are kept.
    negatives : float
        Share of negatives to keep, above 0 and up to 1.
    key : str, optional
        The column by which negatives are chosen; equal values are kept or left out together. By default what the
        stream calls its impressions, as `Join` does, or else the position of the row.

    Raises
    ------
    JobError
        If a parameter cannot be used.

    Notes
    -----
    With :math:`p` the chance of a positive in the whole stream and :math:`w` the share kept, the odds in the sample
    are :math:`p / (w (1 - p))`; so a logit plus :math:`\log w` is that of the whole stream.

    The rows of a request come apart, so no one who waits for an answer (`Client.learn`) gets one from it.

    References
    ----------
    X. He et al. (2014), Practical lessons from predicting clicks on ads at Facebook, ADKDD, section 6.3.

    Examples
    --------
    >>> from onstream import Files
    >>> Sample(Files("clicks.parquet"), "clicked", negatives=0.1).live
    False
    """

    def __init__(self, stream: Stream, label: str, *, negatives: float, key: str | None = None) -> None:
        super().__init__(stream)
        if not isinstance(label, str) or not label:
            raise JobError(f"Sample: label must be the name of a column, got {label!r}")
        number = isinstance(negatives, int | float) and not isinstance(negatives, bool)
        if not number or not 0 < negatives <= 1:
            raise JobError(f"Sample: negatives must be a share above 0 and up to 1, got {negatives!r}")
        inner = labelling_of(stream)
        if label in inner.negatives_kept:
            raise JobError(f"Sample: negatives of {label!r} are left out already; say it once")
        self.label = label
        self.negatives = negatives
        self.key = inner.key if key is None else key
        self.policies: Mapping[str, Policy] = inner.policies
        self.negatives_kept: Mapping[str, float] = {**inner.negatives_kept, label: float(negatives)}
        if self.policies and self.key != inner.key:
            raise JobError(
                f"Sample: the stream calls its impressions by {inner.key!r}; leave out key={key!r}"
            )

    def __repr__(self) -> str:
        return f"Sample({self.stream!r}, {self.label!r}, negatives={self.negatives!r})"

    @property
    def settings(self) -> Mapping[str, Any]:
        """The parameters by name."""
        return {"stream": self.stream, "label": self.label, "negatives": self.negatives, "key": self.key}

    def select(self, names: Sequence[str]) -> Sample:
        """Return the same, decoding only these columns where the stream can, and those by which it chooses."""
        return super().select([*names, self.label, *([self.key] if self.key else [])])

    def read(self, positions: Positions, *, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        """Yield the rows that are kept, from `positions` on."""
        for chunk in self.stream.read(positions, max_rows=max_rows, stop=stop):
            yield self._thinned(chunk)

    def _thinned(self, chunk: Chunk) -> Chunk:
        stays = self._stays(chunk)
        if stays.all():
            return chunk
        return replace(
            chunk,
            batch=chunk.batch.filter(pa.array(stays)),
            ends=row_ends(chunk)[stays],
            inner=None if chunk.inner is None else chunk.inner[stays],
        )

    def _stays(self, chunk: Chunk) -> npt.NDArray[np.bool_]:
        """Return which rows are kept. What cannot be read is: the features reject it."""
        names = chunk.batch.schema.names
        negative = _negative(chunk.batch.column(self.label)) if self.label in names else None
        if negative is None or (self.key and self.key not in names):
            return np.ones(chunk.batch.num_rows, bool)
        column, purpose = (
            (chunk.batch.column(self.key), "")
            if self.key
            else (pa.array(row_ends(chunk)), f"negatives/{chunk.partition}")
        )
        try:
            picked = chosen(column, self.negatives, purpose)
        except ColumnError:
            # Anyone may send what cannot be a key; it must not end the reading.
            return np.ones(chunk.batch.num_rows, bool)
        return np.asarray(picked | ~negative)


def _negative(column: pa.Array) -> npt.NDArray[np.bool_] | None:
    """Return which rows are negatives; None where the column holds no truths."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_boolean(kind):
        found = pc.invert(column)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        found = pc.equal(column, pa.scalar(0, kind))
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        found = pc.is_in(column, value_set=pa.array(_NEGATIVE_TEXTS, kind))
    else:
        return None
    return np.asarray(found.fill_null(False).to_numpy(zero_copy_only=False))
