"""The checkpoint log: versions that bind parameters, states and stream positions, each whole or absent."""

from onstream.checkpoints.compact import due, merge
from onstream.checkpoints.files import StoredFile
from onstream.checkpoints.log import CheckpointLog
from onstream.checkpoints.manifest import Chain, Manifest
from onstream.checkpoints.segments import SegmentFile, TableShape, read_segment, write_segment
from onstream.checkpoints.snapshot import Snapshot
from onstream.checkpoints.store import LocalStore, Lockable
from onstream.checkpoints.tags import Move, Tag, is_tag_name
from onstream.checkpoints.writer import CheckpointWriter

__all__ = [
    "Chain",
    "CheckpointLog",
    "CheckpointWriter",
    "LocalStore",
    "Lockable",
    "Manifest",
    "Move",
    "SegmentFile",
    "Snapshot",
    "StoredFile",
    "TableShape",
    "Tag",
    "due",
    "is_tag_name",
    "merge",
    "read_segment",
    "write_segment",
]
