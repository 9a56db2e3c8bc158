"""Metrics of several server processes, told by whichever of them is asked."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator

from onstream.serving.metrics import Metrics
from onstream.serving.settings import Member

__all__ = ["TELL_S", "Siblings"]

TELL_S = 2.0
"""How often the numbers of a process are to be told to the others."""

_SUFFIX = ".prom"
# Numbers that are older are of a process that does not run, or cannot tell.
_OLDEST_S = 6 * TELL_S


class Siblings:
    """The processes of a server that has several: each keeps its metrics in a file that the others read.

    Parameters
    ----------
    member : Member
    metrics : Metrics
        Of this process.

    Notes
    -----
    All numbers get the label "process": each process counts from 0 when it starts, which a sum of them would hide
    from who asks for rates. Those of a process that tells none for a while are left out.
    """

    def __init__(self, member: Member, metrics: Metrics) -> None:
        self._folder = member.folder
        self._number = member.number
        self._own = member.folder / f"{member.number}{_SUFFIX}"
        self._metrics = metrics

    def tell(self) -> None:
        """Let the others know the numbers of this process, if the disk has room."""
        new = self._own.with_suffix(".new")
        with contextlib.suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            new.write_bytes(self._render().encode())
            new.replace(self._own)

    def render(self) -> bytes:
        """Return the numbers of all processes in the text format of Prometheus; those of others are seconds old."""
        return _joined(self._texts()).encode()

    def _texts(self) -> Iterator[str]:
        yield self._render()
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            with contextlib.suppress(OSError):
                if path != self._own and time.time() - path.stat().st_mtime < _OLDEST_S:
                    yield path.read_bytes().decode()

    def _render(self) -> str:
        return _labelled(self._metrics.render().decode(), self._number)


def _labelled(text: str, number: int) -> str:
    """Return metrics with the label "process".

    Examples
    --------
    >>> _labelled('# TYPE a gauge\\na 1.0\\nb{c="d e"} 2.0\\n', 3)
    '# TYPE a gauge\\na{process="3"} 1.0\\nb{process="3",c="d e"} 2.0\\n'
    """
    return "".join(
        line if line.startswith("#") else _with_label(line, f'process="{number}"') for line in _lines(text)
    )


def _lines(text: str) -> list[str]:
    """Return the lines, of which Prometheus knows one end only: labels may hold all else."""
    return [f"{line}\n" for line in text.split("\n")[:-1]]


def _with_label(line: str, label: str) -> str:
    # The name ends at the first of the two: neither is part of one.
    name = line.partition(" ")[0]
    if "{" not in name:
        return f"{name}{{{label}}}{line[len(name) :]}"
    name, _, rest = line.partition("{")
    return f"{name}{{{label}{'' if rest.startswith('}') else ','}{rest}"


def _joined(texts: Iterable[str]) -> str:
    """Return several texts as one, in which all numbers of a family stand together under one head."""
    families: dict[str, list[str]] = {}
    for text in texts:
        name, known = "", False
        for line in _lines(text):
            if line.startswith("# HELP "):
                name = line.split(" ", 3)[2]
                known = name in families
            if not (line.startswith("#") and known):
                families.setdefault(name, []).append(line)
    return "".join(line for lines in families.values() for line in lines)
