"""Where commands print."""

from __future__ import annotations

from rich.console import Console

__all__ = ["counted", "err", "out", "say"]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def counted(number: int, noun: str) -> str:
    """Return a number of things, such as "1 update" or "2,000 updates"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def say(text: str) -> None:
    """Print text as it is."""
    out.print(text, markup=False, soft_wrap=True)
