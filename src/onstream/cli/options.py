"""Options that several commands read."""

from __future__ import annotations

from onstream.errors import JobError

__all__ = ["parse_changes"]


def parse_changes(changes: list[str] | None, example: str = "batch_size=4096") -> dict[str, str]:
    """Return ``NAME=VALUE`` texts as a mapping; JobError, with an example of one, if a text is none."""
    parsed = {}
    for change in changes or []:
        name, equals, value = change.partition("=")
        if not equals or not name:
            raise JobError(f"--set takes NAME=VALUE, such as --set {example}, got {change!r}")
        parsed[name] = value
    return parsed
