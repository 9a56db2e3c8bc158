"""The facts that pass between rooms, and the protocols of what plugs in.

Rooms on one floor do not import each other; they meet here. The way of one batch::

    Stream.read -> Chunk -> (features) -> Batch -> RowTable.pull -> Learner.learn -> RowTable.push
"""

from onstream.contracts.abilities import (
    Expecting,
    Holding,
    Noting,
    Peeking,
    Placing,
    Selecting,
    Sharing,
    TakingTurns,
    expected_partitions,
    is_shared,
    peeked,
    placed,
    selected,
    take_notes,
    takes_turns,
)
from onstream.contracts.batches import Batch, Emission, FeedbackPolicy, Field, Label, Layout, Phase, Task
from onstream.contracts.learners import Answering, Learned, Learner, Outcome, WarmStarting
from onstream.contracts.stores import Store
from onstream.contracts.streams import Capture, Chunk, Keeping, Reject, Stateful, Stream
from onstream.contracts.tables import Delta, RowPolicy, RowTable, TableSpec
from onstream.contracts.values import Array, Keys, Positions, Predictions, Rows, State

__all__ = [
    "Answering",
    "Array",
    "Batch",
    "Capture",
    "Chunk",
    "Delta",
    "Emission",
    "Expecting",
    "FeedbackPolicy",
    "Field",
    "Holding",
    "Keeping",
    "Keys",
    "Label",
    "Layout",
    "Learned",
    "Learner",
    "Noting",
    "Outcome",
    "Peeking",
    "Phase",
    "Placing",
    "Positions",
    "Predictions",
    "Reject",
    "RowPolicy",
    "RowTable",
    "Rows",
    "Selecting",
    "Sharing",
    "State",
    "Stateful",
    "Store",
    "Stream",
    "TableSpec",
    "TakingTurns",
    "Task",
    "WarmStarting",
    "expected_partitions",
    "is_shared",
    "peeked",
    "placed",
    "selected",
    "take_notes",
    "takes_turns",
]
