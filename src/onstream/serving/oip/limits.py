"""How much one request may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from onstream.errors import JobError

__all__ = ["Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one request may ask for; what asks for more is refused before anything is done for it.

    Parameters
    ----------
    max_rows : int
        Rows of one request.
    max_inputs : int
        Inputs, and outputs, that one request may name.
    max_body_bytes : int
        Size of one request, of an HTTP body both as it is sent and after it is inflated.
    timeout_s : float
        The longest that a request may take to arrive, and then to be answered. A request may ask for less.

    Raises
    ------
    JobError
        If a limit is out of range.
    """

    max_rows: int = 65_536
    max_inputs: int = 4_096
    max_body_bytes: int = 32 << 20
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("max_rows", "max_inputs"):
            if getattr(self, name) < 1:
                raise JobError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        # Columns of texts count their bytes in int32.
        if not 1 <= self.max_body_bytes < 2**31:
            raise JobError(f"max_body_bytes must be from 1 to {2**31 - 1}, got {self.max_body_bytes!r}")
        if not 0 < self.timeout_s < float("inf"):
            raise JobError(f"timeout_s must be positive and finite, got {self.timeout_s!r}")
