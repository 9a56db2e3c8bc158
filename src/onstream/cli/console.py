"""Where commands print."""

from __future__ import annotations

from rich.console import Console

__all__ = ["err", "out", "say"]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print text as it is."""
    out.print(text, markup=False, soft_wrap=True)
