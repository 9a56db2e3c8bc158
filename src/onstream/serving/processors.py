"""The processors of this machine, dealt out to processes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

__all__ = ["shares"]

_SYSTEM = Path("/sys/devices/system/cpu")

# From the widest to the narrowest that processors have in common: a package, a last cache, a core.
_COMMON = ("topology/physical_package_id", "cache/index3/id", "topology/core_id")


def shares(count: int, processors: Collection[int], system: Path = _SYSTEM) -> list[list[int]]:
    """Deal processors out to some processes; none to each if there are too few.

    Parameters
    ----------
    count : int
        Processes.
    processors : collection of int
        By their numbers.
    system : Path
        Where Linux tells how processors lie.

    Returns
    -------
    list of list of int
        The processors of each. Those that have a cache in common go to one, as far as that comes out even.
    """
    there = sorted(processors, key=lambda number: (*_place(system, number), number))
    if len(there) < count:
        return [[] for _ in range(count)]
    return [there[len(there) * i // count : len(there) * (i + 1) // count] for i in range(count)]


def _place(system: Path, number: int) -> tuple[int, ...]:
    """Return what a processor has in common with others; zeros where the system does not tell."""
    found = []
    for name in _COMMON:
        try:
            found.append(int((system / f"cpu{number}" / name).read_text()))
        except (OSError, ValueError):
            found.append(0)
    return tuple(found)
