"""Messages of many lines, a row each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onstream.streams.chunks import no_rows
from onstream.streams.formats.format import Decoded, Undecodable, shortened
from onstream.streams.parsing.text import LineParser, Lines

__all__ = ["parse_lines", "split_lines"]

Offsets = npt.NDArray[np.int64]


def split_lines(texts: Sequence[bytes]) -> tuple[Lines, Offsets]:
    """Return the lines of some texts that are not blank, and which text each comes from. No line spans two texts."""
    # No blank line is added: the fastest parser takes none.
    ended = [text if text.endswith(b"\n") else text + b"\n" for text in texts]
    data = b"".join(ended)
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    lines = Lines(data, np.concatenate(([0], ends))[:-1], ends).filled()
    text_ends = np.cumsum(np.fromiter(map(len, ended), np.int64, len(ended)))
    return lines, np.searchsorted(text_ends, lines.starts, side="right")


def parse_lines(
    texts: list[bytes], indices: Offsets, parser: LineParser, rejects: list[Undecodable], *, max_rows: int
) -> Decoded:
    """Return the rows of some texts, of which each has at most `max_rows` lines.

    Parameters
    ----------
    texts : list of bytes
    indices : ndarray of int64, shape (len(texts),)
        Of their messages.
    parser : LineParser
    rejects : list of Undecodable
        What is wrong already; what else is wrong is appended.
    """
    lines, owners = split_lines(texts)
    counts = np.bincount(owners, minlength=len(texts))
    if len(counts) and counts.max() > max_rows:
        for i in np.flatnonzero(counts > max_rows).tolist():
            reason = f"message of more than {max_rows} rows"
            rejects.append(Undecodable(int(indices[i]), reason, shortened(texts[i])))
        kept = np.flatnonzero(counts <= max_rows)
        return parse_lines([texts[i] for i in kept], indices[kept], parser, rejects, max_rows=max_rows)
    sources = indices[owners]
    batch, bad = parser.parse(lines) if len(lines) else (no_rows(parser.schema), {})
    for i, reason in sorted(bad.items()):
        rejects.append(Undecodable(int(sources[i]), reason, shortened(lines.line(i))))
    rejects.sort(key=lambda reject: reject.index)
    return Decoded(batch, np.delete(sources, list(bad)), rejects)
