"""Vowpal Wabbit, libsvm and libffm text: one or many examples a message, a line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from onstream.errors import JobError
from onstream.streams.formats.described import Described
from onstream.streams.formats.format import (
    MAX_MESSAGE_BYTES,
    MAX_ROWS_PER_MESSAGE,
    Decoded,
    Messages,
    check_limits,
    screen,
)
from onstream.streams.formats.inference import Inference, selected
from onstream.streams.formats.lines import parse_lines, split_lines
from onstream.streams.parsing.libsvm import LIBFFM_SCHEMA, LIBSVM_SCHEMA, LibsvmParser
from onstream.streams.parsing.vowpal_wabbit import (
    INFERRED_FROM,
    VowpalWabbitParser,
    namespaces_in,
    namespaces_of,
)

__all__ = ["Libffm", "Libsvm", "VowpalWabbit"]


@dataclass(frozen=True)
class Libsvm(Described):
    """Read each message as lines of libsvm text: ``label index:value index:value ...``.

    Parameters
    ----------
    max_message_bytes : int, default 16 MiB
        Longer messages are rejected.
    max_rows_per_message : int, default 131072
        Messages of more lines are rejected.

    Notes
    -----
    The columns are `label`, float32; `indices`, lists of int64; and `values`, lists of float32. Every line that is
    not blank is one row or one reject. What follows a "#" is a comment. For labels -1 and +1, give
    ``Label("label", threshold=0.5)``.

    Examples
    --------
    >>> from onstream.streams.formats import Libsvm
    >>> Libsvm().decode([b"+1 3:0.5 7:2"]).batch.to_pydict()
    {'label': [1.0], 'indices': [[3, 7]], 'values': [[0.5, 2.0]]}
    """

    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_rows_per_message: int = MAX_ROWS_PER_MESSAGE
    columns: tuple[str, ...] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Check the limits."""
        check_limits(max_message_bytes=self.max_message_bytes, max_rows_per_message=self.max_rows_per_message)

    def schema(self) -> pa.Schema:
        """Return the columns of every batch."""
        return selected(LIBSVM_SCHEMA, self.columns)

    def decode(self, messages: Messages) -> Decoded:
        """Return the rows of some messages and why some of their lines are none."""
        texts, indices, rejects = screen(messages, self.max_message_bytes)
        parser = LibsvmParser(fields=False, columns=self.columns)
        return parse_lines(texts, indices, parser, rejects, max_rows=self.max_rows_per_message)


@dataclass(frozen=True)
class Libffm(Libsvm):
    """Read each message as lines of libffm text: ``label field:index:value field:index:value ...``.

    Parameters
    ----------
    max_message_bytes, max_rows_per_message
        As for `Libsvm`.

    Notes
    -----
    As for `Libsvm`, with one column more: `fields`, lists of int64.

    Examples
    --------
    >>> from onstream.streams.formats import Libffm
    >>> Libffm().decode([b"0 1:3:0.5"]).batch.to_pydict()
    {'label': [0.0], 'fields': [[1]], 'indices': [[3]], 'values': [[0.5]]}
    """

    def schema(self) -> pa.Schema:
        """Return the columns of every batch."""
        return selected(LIBFFM_SCHEMA, self.columns)

    def decode(self, messages: Messages) -> Decoded:
        """Return the rows of some messages and why some of their lines are none."""
        texts, indices, rejects = screen(messages, self.max_message_bytes)
        parser = LibsvmParser(fields=True, columns=self.columns)
        return parse_lines(texts, indices, parser, rejects, max_rows=self.max_rows_per_message)


@dataclass(frozen=True, init=False)
class VowpalWabbit(Described):
    """Read each message as lines of Vowpal Wabbit text: ``label weight 'tag |namespace feature:value ...``.

    Parameters
    ----------
    namespaces : sequence of str, optional
        Of which the features are read; "" is that without a name, others are skipped. Without it, they are those of
        the first 1000 lines, or fewer if fewer came at once: give it where a job must read alike whenever it is
        started.
    max_message_bytes : int, default 16 MiB
        Longer messages are rejected.
    max_rows_per_message : int, default 131072
        Messages of more lines are rejected.

    Raises
    ------
    JobError
        If no namespace is given, two columns would have one name, or a limit is below 1.

    Notes
    -----
    The columns are `label`, float32, null where there is none; `weight`, float32, 1 where there is none; `tag`, text;
    and for each namespace one of its name with lists of text, the features, and one of its name and ".values" with
    lists of float32. A namespace without a name has the columns `features` and `features.values`; one that is called
    as another column gets a bar before its name. A feature without a value has the value 1, and values are
    multiplied by that of their namespace. The initial prediction is checked and skipped.

    Every line that is not blank is one row or one reject; examples of several lines are not read. For labels -1 and
    1, give ``Label("label", threshold=0.5)``.

    Examples
    --------
    >>> from onstream.streams.formats import VowpalWabbit
    >>> VowpalWabbit(["ad"]).decode([b"1 2.0 'first |ad sport price:0.5 |user u7"]).batch.to_pylist()
    [{'label': 1.0, 'weight': 2.0, 'tag': 'first', 'ad': ['sport', 'price'], 'ad.values': [1.0, 0.5]}]
    """

    namespaces: tuple[str, ...] | None
    columns: tuple[str, ...] | None
    max_message_bytes: int
    max_rows_per_message: int
    _inference: Inference = field(compare=False, repr=False)

    # Written out because namespaces may be given in any sequence.
    def __init__(
        self,
        namespaces: Sequence[str] | None = None,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_rows_per_message: int = MAX_ROWS_PER_MESSAGE,
    ) -> None:
        """Check and keep the arguments."""
        check_limits(max_message_bytes=max_message_bytes, max_rows_per_message=max_rows_per_message)
        names = None if namespaces is None else tuple(namespaces)
        if isinstance(namespaces, str) or names == ():
            raise JobError(f"namespaces must be a sequence of names, got {namespaces!r}")
        facts = {
            "namespaces": names,
            "columns": None,
            "max_message_bytes": max_message_bytes,
            "max_rows_per_message": max_rows_per_message,
            "_inference": Inference(None if names is None else VowpalWabbitParser(names).schema),
        }
        self._keep(**facts)

    def decode(self, messages: Messages) -> Decoded:
        """Return the rows of some messages and why some of their lines are none."""
        texts, indices, rejects = screen(messages, self.max_message_bytes)
        known = self._inference.settle(lambda: _inferred(texts))
        names = () if known is None else namespaces_in(known)
        parser = VowpalWabbitParser(names, self.columns)
        return parse_lines(texts, indices, parser, rejects, max_rows=self.max_rows_per_message)


def _inferred(texts: list[bytes]) -> pa.Schema | None:
    """Return the columns of the first lines; None if none of them is an example."""
    lines, _ = split_lines(texts)
    sample = [lines.line(i) for i in range(min(len(lines), INFERRED_FROM))]
    names = namespaces_of(sample)
    return VowpalWabbitParser(names).schema if names else None
