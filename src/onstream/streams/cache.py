"""Repeated passes over a stream: what was decoded once is learned again from Arrow files."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onstream.contracts import Answering, Chunk, Learned, Positions, Stream, take_notes
from onstream.errors import JobError
from onstream.feedback import labelling_of
from onstream.streams.around import Around
from onstream.streams.cache_windows import Window, Windows
from onstream.streams.chunks import slice_chunk

__all__ = ["Cache"]

PARTITION = "cache"
"""The partition of rows that are given again; its position counts all that were."""


class Cache(Around):
    """Give the rows of a stream several times, window by window, decoding them once.

    For streams that are worth more than one pass: few examples, or costly to decode. Read `window_rows` rows,
    learn them, learn them `passes` - 1 times more from Arrow files, and go on to the next window.

    Parameters
    ----------
    stream : Stream
    passes : int, default 3
        How often each row is given, the first time included; at least 2.
    window_rows : int, default 1,000,000
        Rows of a window; the last may be shorter. Its decoded columns take that much room on disk, and no memory.
    directory : path, optional
        Where the files are kept. A job gives it a folder of its own.

    Raises
    ------
    JobError
        If a parameter cannot be used.

    Notes
    -----
    Only the first time counts in metrics, in the guard and in dead letters: each example is predicted before it is
    learned from, once. Later times count as sights of their ids, and in `Number(standardize=True)`.

    Going on from a checkpoint gives the rows that were to come, in the same order: what was read after it is taken
    back, and the files of a window are kept until a checkpoint holds all of its passes. If they were lost, the
    repeats of that window are left out, and a note says so.

    Examples
    --------
    >>> from onstream import Files
    >>> Cache(Files("clicks.parquet"), passes=3, window_rows=100_000).live
    False
    """

    def __init__(
        self,
        stream: Stream,
        passes: int = 3,
        window_rows: int = 1_000_000,
        directory: str | Path | None = None,
    ) -> None:
        super().__init__(stream)
        for name, value, least in (("passes", passes, 2), ("window_rows", window_rows, 1)):
            if type(value) is not int or value < least:
                raise JobError(f"Cache: {name} must be a whole number of at least {least}, got {value!r}")
        self.passes = passes
        self.window_rows = window_rows
        self.directory = None if directory is None else Path(directory)
        labelling = labelling_of(stream)
        self.policies, self.negatives_kept = labelling.policies, labelling.negatives_kept
        self.key = labelling.key
        self._own_notes: list[str] = []
        self._windows: Windows | None = None

    def __repr__(self) -> str:
        return f"Cache({self.stream!r}, passes={self.passes}, window_rows={self.window_rows})"

    @property
    def notes(self) -> list[str]:
        """What people should know of it and of its stream; taken away when told."""
        self._own_notes.extend(take_notes(self.stream))
        return self._own_notes

    @property
    def settings(self) -> Mapping[str, Any]:
        """The parameters by name."""
        names = ("stream", "passes", "window_rows", "directory")
        return {name: getattr(self, name) for name in names}

    def placed(self, folder: Path) -> Cache:
        """Return the same with its files in a folder, unless it was told another."""
        made = super().placed(folder)
        return made if made.directory else made.replace(directory=folder / PARTITION)

    def kept(self, positions: Positions) -> None:
        """Remove the files of windows of which a checkpoint holds all passes, and tell the stream."""
        if self._windows is not None:
            self._windows.drop_before(positions.get(PARTITION, 0))
        super().kept(positions)

    def answer(self, learned: Learned) -> None:
        """Let those who asked the stream know, the first time that their rows are learned."""
        if isinstance(self.stream, Answering) and not learned.batch.again:
            self.stream.answer(learned)

    def read(self, positions: Positions, *, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        """Yield chunks of at most `max_rows` rows, from `positions` on, until the end or until `stop` is set.

        Raises
        ------
        JobError
            If it has no folder to keep files in.
        StreamError
            If the stream cannot be read, or the files not be written.
        """
        if self.directory is None:
            raise JobError("Cache: say where to keep the rows, as in Cache(..., directory='cache')")
        self._windows = windows = Windows(self.directory, self.passes)
        window = windows.resume(positions, positions.get(PARTITION, 0), self._own_notes.append)
        return self._read(windows, window, dict(positions), max_rows, stop)

    def _read(
        self, windows: Windows, window: Window, positions: Positions, max_rows: int, stop: threading.Event
    ) -> Iterator[Chunk]:
        given = positions.get(PARTITION, 0) - window.before
        if window.num_rows >= self.window_rows or given:
            yield from self._again(window, given, max_rows, stop)
            window = windows.begin(window.after(self.passes))
        for chunk in self.stream.read(self._inner(positions), max_rows=max_rows, stop=stop):
            at = 0
            while True:
                piece = slice_chunk(
                    chunk, at, min(self.window_rows - window.num_rows, chunk.batch.num_rows - at)
                )
                window.add(piece)
                yield piece
                at += piece.batch.num_rows
                if window.num_rows == self.window_rows:
                    yield from self._again(window, 0, max_rows, stop)
                    window = windows.begin(window.after(self.passes))
                if at == chunk.batch.num_rows or stop.is_set():
                    break
            if stop.is_set():
                return
        yield from self._again(window, 0, max_rows, stop)

    def _again(self, window: Window, given: int, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        """Yield the rows of a window as often as they are still to be given; `given` rows were."""
        position = window.before + given
        while given < window.num_rows * (self.passes - 1) and not stop.is_set():
            for batch in window.batches(given % window.num_rows, max_rows):
                given += batch.num_rows
                position += batch.num_rows
                yield Chunk(batch, PARTITION, position, again=True)
                if stop.is_set():
                    return

    def _inner(self, positions: Positions) -> Positions:
        return {name: position for name, position in positions.items() if name != PARTITION}
