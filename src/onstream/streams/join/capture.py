"""What a join remembers, as it is at one moment, and how it comes out of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onstream.contracts import State
from onstream.errors import CheckpointError
from onstream.streams.join.figures import Figures, Standing
from onstream.streams.join.pieces import Piece, Pieces
from onstream.streams.pace import Clock

__all__ = ["FIGURES", "JOIN", "JoinCapture", "stored_pieces"]

JOIN = "join"
FIGURES = "figures"


@dataclass(frozen=True)
class JoinCapture:
    """What a join remembers, before it gives the rows that are due.

    Attributes
    ----------
    facts : dict
        JSON values.
    pieces : dict of str to tuple of Piece
        Impressions and feedback.
    counts : Figures
    standing : Standing
    clock : Clock
        For figures that depend on the time.
    """

    facts: dict[str, Any]
    pieces: dict[str, tuple[Piece, ...]]
    counts: Figures
    standing: Standing
    clock: Clock

    def states(self) -> Mapping[str, State]:
        """Return everything by name; rows that did not change are the same objects as ever."""
        kept = {
            kind: [[piece.serial, piece.latest] for piece in pieces] for kind, pieces in self.pieces.items()
        }
        return {
            JOIN: State(facts=self.facts | {"pieces": kept}),
            FIGURES: self.counts.state(),
            **{
                _piece_name(kind, piece.serial): piece.state()
                for kind, pieces in self.pieces.items()
                for piece in pieces
            },
        }

    def figures(self) -> dict[str, float]:
        """Return what is reported."""
        return self.standing.flat(self.counts, self.clock.time())


def stored_pieces(states: Mapping[str, State], kind: str, into: Pieces, facts: Mapping[str, Any]) -> Any:
    """Yield the record batches of a kind, one by one, each kept in `into`."""
    stored = facts["pieces"][kind]
    into.reserve(serial for serial, _ in stored)
    for serial, latest in stored:
        name = _piece_name(kind, serial)
        if name not in states:
            raise CheckpointError(f"the checkpoint has no state {name!r} of its join; use another version")
        yield into.load(serial, states[name], latest, name)


def _piece_name(kind: str, serial: int) -> str:
    return f"{kind}-{serial:08d}"
