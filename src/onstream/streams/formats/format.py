"""What a format is: how the messages of a stream become rows, and how it is told which messages do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.errors import JobError

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MAX_ROWS_PER_MESSAGE",
    "Decoded",
    "Format",
    "Messages",
    "Undecodable",
    "check_limits",
    "screen",
    "shortened",
]

Messages: TypeAlias = Sequence[bytes | None]

MAX_MESSAGE_BYTES = 16 << 20
MAX_ROWS_PER_MESSAGE = 1 << 17

_VALUE_CHARACTERS = 1000

# Deeper recursion than this could pass the stack of a thread.
_DEEPEST = 512


@dataclass(frozen=True, slots=True)
class Undecodable:
    """One message, or one line of a message of many rows, that is no row.

    Attributes
    ----------
    index : int
        Of the message among those that were decoded.
    reason : str
        Why, in words that are the same for the same cause, so that reasons can be counted.
    value : str
        What it held, shortened; bytes that are no text are written as ``\\xNN``.
    """

    index: int
    reason: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The rows of some messages.

    Attributes
    ----------
    batch : pyarrow.RecordBatch
    sources : ndarray of int64, shape (num_rows,)
        The index of the message that each row came from, ascending.
    rejects : sequence of Undecodable
        By index, ascending. What they tell of is not in `batch`.
    """

    batch: pa.RecordBatch
    sources: npt.NDArray[np.int64]
    rejects: Sequence[Undecodable] = ()


@runtime_checkable
class Format(Protocol):
    """How messages become rows.

    Notes
    -----
    A format is a frozen description. What one has inferred from the first messages that it decoded stays as long
    as it lives, and is shared by what `select` makes of it. `decode` may be called from several threads.
    """

    def decode(self, messages: Messages) -> Decoded:
        """Return the rows of some messages and why the others are none. `None` is no row and no reject."""

    def schema(self) -> pa.Schema:
        """Return the columns of every batch; empty as long as they are not known."""

    def select(self, names: Iterable[str]) -> Format:
        """Return the same format, decoding only these of its columns."""


def check_limits(**limits: int) -> None:
    """Refuse limits that nothing could pass, or that would not protect."""
    for name, value in limits.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise JobError(f"{name} must be a whole number of at least 1, got {value!r}")
        if name == "max_depth" and value > _DEEPEST:
            raise JobError(f"max_depth must be at most {_DEEPEST}, got {value}")


def screen(
    messages: Messages, max_message_bytes: int
) -> tuple[list[bytes], npt.NDArray[np.int64], list[Undecodable]]:
    """Return the messages to decode, the index of each, and rejects for those that are too long."""
    if None not in messages and max(map(len, messages), default=0) <= max_message_bytes:  # type: ignore[arg-type]
        return list(messages), np.arange(len(messages)), []  # type: ignore[arg-type]
    chosen: list[bytes] = []
    indices: list[int] = []
    rejects: list[Undecodable] = []
    for i, message in enumerate(messages):
        if message is None:
            continue
        if len(message) > max_message_bytes:
            reason = f"message longer than {max_message_bytes} bytes"
            rejects.append(Undecodable(i, reason, shortened(message)))
        else:
            chosen.append(message)
            indices.append(i)
    return chosen, np.array(indices, np.int64), rejects


def shortened(message: bytes) -> str:
    """Return the beginning of a message as text."""
    return message[: 4 * _VALUE_CHARACTERS].decode(errors="backslashreplace")[:_VALUE_CHARACTERS]
