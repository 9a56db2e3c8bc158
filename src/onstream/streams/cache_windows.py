"""The files of a cache: the rows of each window as they were read, until no checkpoint needs them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.contracts import Chunk, Positions
from onstream.errors import StreamError
from onstream.streams.chunks import inner_name, row_ends

__all__ = ["Window", "Windows"]

_PARTITION = b"onstream.partition"
_END, _INNER = "onstream.end", "onstream.inner"


class Window:
    """Rows that are given several times, one Arrow file for each chunk in which they came.

    Parameters
    ----------
    folder : path
    before : int
        How many rows were given again before this window.

    Notes
    -----
    Each file has two columns beside those of its rows, "onstream.end" and "onstream.inner": the place of the row in
    its partition, which the schema's metadata name. So whoever goes on from older positions knows which rows were
    read after them.
    """

    def __init__(self, folder: Path, before: int) -> None:
        self.folder = folder
        self.before = before
        self.num_rows = 0
        self._files: list[Path] = []

    def after(self, passes: int) -> int:
        """Return how many rows were given again once this window is done with."""
        return self.before + self.num_rows * (passes - 1)

    def add(self, chunk: Chunk) -> None:
        """Keep the rows of a chunk. Raises StreamError if they cannot be written."""
        if not chunk.batch.num_rows:
            return
        ends = row_ends(chunk)
        inner = np.zeros(len(ends), np.int64) if chunk.inner is None else chunk.inner
        batch = chunk.batch.append_column(_END, pa.array(ends)).append_column(_INNER, pa.array(inner))
        metadata = {**(chunk.batch.schema.metadata or {}), _PARTITION: chunk.partition.encode()}
        self._write(self.folder / f"{len(self._files):08}.arrow", batch.replace_schema_metadata(metadata))
        self.num_rows += batch.num_rows

    def take_back(self, positions: Positions) -> None:
        """Keep the rows alone that were read before `positions`."""
        files = sorted(self.folder.glob("*.arrow"))
        self._files, self.num_rows = [], 0
        for file in files:
            batch = _read(file)
            kept = _kept(batch, positions)
            if kept < batch.num_rows:
                file.unlink()
            if kept:
                # Numbers of files that went away are used again: there are no gaps.
                path = self.folder / f"{len(self._files):08}.arrow"
                if kept < batch.num_rows or path != file:
                    file.unlink(missing_ok=True)
                    self._write(path, batch.slice(0, kept))
                else:
                    self._files.append(path)
                self.num_rows += kept

    def batches(self, first: int, max_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows from row `first` on, at most `max_rows` at once."""
        for file in self._files:
            batch = _read(file)
            columns = [name for name in batch.schema.names if name not in (_END, _INNER)]
            batch = batch.select(columns)
            for at in range(first, batch.num_rows, max_rows):
                yield batch.slice(at, max_rows)
            first = max(0, first - batch.num_rows)

    def _write(self, path: Path, batch: pa.RecordBatch) -> None:
        try:
            # Written aside first: a file that is there is whole.
            aside = path.with_suffix(".part")
            with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)
            aside.rename(path)
        except OSError as error:
            raise StreamError(f"the cache cannot write {str(path)!r}: {error}") from error
        self._files.append(path)


class Windows:
    """The windows of one cache.

    Parameters
    ----------
    folder : path
        Made if it is missing. A window is a folder in it, called after what was given again before it.
    passes : int
    """

    def __init__(self, folder: Path, passes: int) -> None:
        self._folder = folder
        self._passes = passes

    def begin(self, before: int) -> Window:
        """Begin a window."""
        folder = self._folder / f"window-{before:020}"
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        except OSError as error:
            raise StreamError(f"the cache cannot make {str(folder)!r}: {error}") from error
        return Window(folder, before)

    def resume(self, positions: Positions, again: int, note: Callable[[str], None]) -> Window:
        """Return the window in which reading goes on, with the rows that were read before `positions`.

        Parameters
        ----------
        positions : Positions
            Of the stream.
        again : int
            How many rows were given again.
        note : callable
            Receives a sentence if the files of a window are not what they should be.
        """
        found = [window for window in self._found() if window.before <= again]
        for window in self._found():
            if window.before > again:
                shutil.rmtree(window.folder)
        if not found:
            if again:
                note(
                    "the cache begins anew: the files of its window are gone, and repeats of it are left out"
                )
            return self.begin(again)
        window = found[-1]
        try:
            window.take_back(positions)
        except (pa.ArrowException, OSError, KeyError) as error:
            note(f"the cache begins anew: the files of its window cannot be used: {error}")
            return self.begin(again)
        if again > window.before and again >= window.after(self._passes):
            if again > window.after(self._passes):
                note("the cache begins anew: rows of its window are gone, and repeats of it are left out")
            return self.begin(again)
        return window

    def drop_before(self, again: int) -> None:
        """Remove the windows of which a checkpoint holds all passes."""
        found = [window for window in self._found() if window.before <= again]
        for window in found[:-1]:
            shutil.rmtree(window.folder, ignore_errors=True)

    def _found(self) -> list[Window]:
        folders = sorted(self._folder.glob("window-*"))
        return [Window(folder, int(folder.name.removeprefix("window-"))) for folder in folders]


def _read(path: Path) -> pa.RecordBatch:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).get_batch(0)


def _kept(batch: pa.RecordBatch, positions: Positions) -> int:
    """Return how many rows of a file were read before `positions`."""
    partition = batch.schema.metadata[_PARTITION].decode()
    end = positions.get(partition, 0)
    inner = positions.get(inner_name(partition), 0)
    ends: npt.NDArray[np.int64] = batch.column(_END).to_numpy()
    inners: npt.NDArray[np.int64] = batch.column(_INNER).to_numpy()
    return int(((ends < end) | ((ends == end) & (inners <= inner))).sum())
