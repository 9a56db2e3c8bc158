"""Beginning with a model that was trained elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onstream.contracts import Learner, WarmStarting
from onstream.core import salt
from onstream.errors import JobError
from onstream.features import Features, Id, IdList
from onstream.features.layout import row_owner
from onstream.tables import TableGroup
from onstream.trainer.row_file import RowFile, read_rows

__all__ = ["WarmStart"]


@dataclass(frozen=True)
class WarmStart:
    """Begin with parameters and rows from files, and learn on from there.

    Used where the job's directory has no checkpoint; a job that goes on has its own.

    Parameters
    ----------
    network : path, optional
        The state dict of a PyTorch network: safetensors, or what `torch.save` wrote.
    rows : mapping of str to path or RowFile
        By feature, files with a column of ids and their vectors.
    rename : mapping of str to str
        Beginnings of names in the state dict and what stands there in the network, such as ``{"model.": ""}``.
    strict : bool
        Whether names and shapes of the state dict must be those of the network. Without it, what does not fit is
        left out, and begins as ever.

    Notes
    -----
    Ids are hashed as the feature hashes them: an integer and its decimal text meet, and a feature that shares rows
    finds them under either name. Rows count as admitted, and as seen at the event time of the first example; their
    optimizer begins afresh. Files are read part by part. The first checkpoint holds everything.

    Examples
    --------
    >>> WarmStart("net.safetensors", {"user": "users.parquet", "item": RowFile("items.csv", id="item_id")}).strict
    True
    """

    network: str | Path | None = None
    rows: Mapping[str, str | Path | RowFile] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    strict: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.network is None and not self.rows:
            raise JobError("WarmStart: give the file of a network, or files of rows by feature")
        if self.network is None and (self.rename or not self.strict):
            raise JobError(
                "WarmStart: rename and strict are about the network's parameters; give its file too"
            )

    def check(self, features: Features, learner: Learner) -> None:
        """Raise `JobError` unless the job has these features, with rows, and a learner that can begin warm."""
        known = [name for spec in features.layout.tables for name in spec.features]
        known = [name for name in known if isinstance(features.declared(name), Id | IdList)]
        owners: dict[str, str] = {}
        for name in self.rows:
            if name not in known:
                raise JobError(
                    f"WarmStart: rows are for {name!r}, which is no feature of ids; there are {known}"
                )
            owner = row_owner(_with_ids(features, name))
            if owner in owners:
                raise JobError(
                    f"WarmStart: {owners[owner]!r} and {name!r} have the same rows; give one file for both"
                )
            owners[owner] = name
        if self.network is not None and not isinstance(learner, WarmStarting):
            raise JobError(f"WarmStart: {type(learner).__name__} cannot begin with a network's parameters")

    def load_network(self, learner: Learner) -> None:
        """Give the learner its parameters."""
        if self.network is not None:
            assert isinstance(learner, WarmStarting)
            learner.warm_start(Path(self.network), rename=self.rename, strict=self.strict)

    def load_rows(self, features: Features, tables: TableGroup, *, now: int) -> Iterator[str]:
        """Put the rows into their tables, and tell of each feature how many they are.

        Raises
        ------
        JobError
            If a file cannot be read, or an id is in it twice.
        """
        for name, source in self.rows.items():
            file = source if isinstance(source, RowFile) else RowFile(source)
            feature = _with_ids(features, name)
            table = next(spec for spec in features.layout.tables if name in spec.features)
            loaded = 0
            before = len(tables[table.name])
            parts = read_rows(file, name, feature.source, table.dim, salt(row_owner(feature)))
            for keys, vectors in parts:
                loaded += len(keys)
                tables.put(table.name, keys, vectors, now=now)
                if len(tables[table.name]) - before < loaded:
                    raise JobError(
                        f"warm start of {name!r} from {str(file.path)!r}: an id is there more than once, among rows "
                        f"{loaded - len(keys)} to {loaded - 1} or before"
                    )
            yield f"warm start: {loaded:,} rows of {name!r} from {str(file.path)!r}"


def _with_ids(features: Features, name: str) -> Id | IdList:
    declared = features.declared(name)
    assert isinstance(declared, Id | IdList)
    return declared
