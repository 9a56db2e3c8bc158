"""Memory of this process as the operating system counts it."""

from __future__ import annotations

from pathlib import Path


def resident_bytes() -> int:
    """Return the bytes of this process that are in memory now."""
    return _status("VmRSS")


def peak_resident_bytes() -> int:
    """Return the most bytes of this process that were in memory at once."""
    return _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")
