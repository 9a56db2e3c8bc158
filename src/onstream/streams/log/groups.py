"""Readers that share a log: each range of rows goes to one of them, and what they make of it is written once."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from onstream.errors import JobError, StreamError
from onstream.streams.log.appends import Appended
from onstream.streams.log.stream import Log
from onstream.streams.pace import SYSTEM_CLOCK, Clock

__all__ = ["Claim", "LogGroup"]

_TABLES = """
CREATE TABLE IF NOT EXISTS groups (
    name TEXT PRIMARY KEY,
    next INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (
    name TEXT NOT NULL,
    first INTEGER NOT NULL,
    end INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (name, first)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """Rows of a log that are one reader's to handle: ``first`` to ``end``, with `owner` as the proof."""

    first: int
    end: int
    owner: int


class LogGroup:
    """Share the rows of one log among processes, and write what they make of them to another, exactly once.

    Parameters
    ----------
    source : Log
        Whose rows are shared.
    target : Log
        Where results go. Its file also keeps how far the group is, so that both are one transaction. May be `source`
        itself, where results go elsewhere and are told `done`.
    name : str
        Of the group: who has the same name shares the rows.
    start : {"earliest", "latest"} or int
        Where a group that is new begins: with the oldest row, with what comes from now on, or at an offset.
    lease_s : float
        Seconds after which a range that was claimed and not written goes to another reader: how long the rows of
        a process that died wait.
    clock : Clock, optional

    Raises
    ------
    JobError
        If `start` or `lease_s` cannot be used.

    Notes
    -----
    A reader whose lease has passed may still be at work; whoever writes first has written, and the other is told
    so and drops its results. So every row of `source` has its result in `target` exactly once, whatever dies when.
    Results of one range stand together; ranges stand in the order in which they were finished.

    The file of `target` gets two tables, `groups` (name, next: the first row that nobody has claimed) and `claims`
    (name, first, end, owner, until: in seconds since 1970).
    """

    def __init__(
        self,
        source: Log,
        target: Log,
        name: str,
        *,
        start: str | int = "latest",
        lease_s: float = 30.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Join the group; make it if it is new."""
        if not (start in ("earliest", "latest") or (isinstance(start, int) and start >= 0)):
            raise JobError(f"start must be 'earliest', 'latest' or an offset, got {start!r}")
        if lease_s <= 0:
            raise JobError(f"lease_s must be above 0, got {lease_s!r}")
        self.source = source
        self.target = target
        self.name = name
        self._lease_s = lease_s
        self._clock = clock
        begin = {"earliest": source.first, "latest": source.end}.get(str(start), start)
        with target.file.write() as connection:
            for statement in _TABLES.split(";")[:-1]:
                connection.execute(statement)
            connection.execute("INSERT OR IGNORE INTO groups VALUES (?, ?)", (name, begin))

    def claim(self, max_rows: int) -> Claim | None:
        """Take the next rows that nobody has, or those of a reader whose lease has passed; None if there are none."""
        now = self._clock.time()
        end = self.source.end
        with self.target.file.look() as connection:
            if self._next(connection) >= end and self._expired(connection, now) is None:
                return None
        owner = secrets.randbits(62)
        with self.target.file.write() as connection:
            found = self._expired(connection, now)
            if found is None:
                first = self._next(connection)
                found = first, min(first + max_rows, end)
                if found[1] <= first:
                    return None
                connection.execute("UPDATE groups SET next = ? WHERE name = ?", (found[1], self.name))
            connection.execute(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)",
                (self.name, *found, owner, now + self._lease_s),
            )
        return Claim(*found, owner)

    def write(self, claim: Claim, results: Sequence[pa.RecordBatch]) -> Appended | None:
        """Append the results of a claim, and be done with it; None if another reader has taken the claim.

        Raises
        ------
        StreamError, ColumnError
            As `Log.append`; the claim then stays.
        """
        return self.target.append_if(lambda connection: self._finish(connection, claim), results)

    def done(self, claim: Claim) -> bool:
        """Be done with a claim whose results are elsewhere; return whether no other reader has taken it."""
        with self.target.file.write() as connection:
            return self._finish(connection, claim)

    def give_back(self, claim: Claim) -> None:
        """Let another reader have the rows at once."""
        with self.target.file.write() as connection:
            connection.execute(
                "UPDATE claims SET until = 0 WHERE name = ? AND first = ? AND owner = ?",
                (self.name, claim.first, claim.owner),
            )

    def behind(self) -> int:
        """Return how many rows of the source have no result yet."""
        # Before, since both may be one file, which one look at a time is taken at.
        end = self.source.end
        with self.target.file.look() as connection:
            (claimed,) = connection.execute(
                "SELECT coalesce(sum(end - first), 0) FROM claims WHERE name = ?", (self.name,)
            ).fetchone()
            return max(0, end - self._next(connection)) + int(claimed)

    def _finish(self, connection: sqlite3.Connection, claim: Claim) -> bool:
        done = connection.execute(
            "DELETE FROM claims WHERE name = ? AND first = ? AND owner = ?",
            (self.name, claim.first, claim.owner),
        )
        return done.rowcount == 1

    def _next(self, connection: sqlite3.Connection) -> int:
        row = connection.execute("SELECT next FROM groups WHERE name = ?", (self.name,)).fetchone()
        if row is None:
            raise StreamError(f"log {str(self.target.path)!r}: the group {self.name!r} is gone from the file")
        return int(row[0])

    def _expired(self, connection: sqlite3.Connection, now: float) -> tuple[int, int] | None:
        found: tuple[int, int] | None = connection.execute(
            "SELECT first, end FROM claims WHERE name = ? AND until < ? ORDER BY first LIMIT 1",
            (self.name, now),
        ).fetchone()
        return found
