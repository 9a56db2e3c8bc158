"""Memory of this process as the operating system counts it."""

from __future__ import annotations

from pathlib import Path


def resident_bytes() -> int:
    """Return the bytes of this process that are in memory now."""
    return _status("VmRSS")


def anonymous_bytes() -> int:
    """Return those of them that are not pages of files, which the system can drop at any time."""
    return _status("RssAnon")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")
