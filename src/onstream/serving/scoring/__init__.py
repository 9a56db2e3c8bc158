from onstream.serving.scoring.scorer import Scored, Scorer
from onstream.serving.scoring.work import LogWork, Piece, Work

__all__ = ["LogWork", "Piece", "Scored", "Scorer", "Work"]
