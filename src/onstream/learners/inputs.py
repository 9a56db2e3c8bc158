"""Named tensors: what a network sees of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from onstream.contracts import Batch, Field, Layout
from onstream.errors import JobError

__all__ = ["Inputs", "Part", "gather_inputs", "gather_parts", "parts_of"]


class Inputs(Mapping[str, Tensor]):
    """The features of a batch as tensors by name; float32.

    ``x["user"]`` of an ``Id`` is (rows, dim); of an ``IdList`` it is (rows, dim) when summed or averaged and
    (rows, length, dim) when padded, with ``x.mask("user")``; of a ``Number`` it is (rows, 1); of a ``Tensor``
    it is (rows, *shape).

    Parameters
    ----------
    layout : Layout
    parts : mapping of str to Tensor
        As `gather_parts` gives them.

    Notes
    -----
    The tensor of a feature is made when it is asked for: networks that stack need none of them.
    """

    def __init__(self, layout: Layout, parts: Mapping[str, Tensor]) -> None:
        self._parts = parts
        self._numbers = parts["numbers"]
        self._fields = {field.name: field for field in layout.fields}

    def __getitem__(self, name: str) -> Tensor:
        """Return the tensor of one feature."""
        field = self._fields.get(name)
        if field is None:
            raise JobError(f"the network asks for x[{name!r}]; the job's features are {list(self)}")
        # Made anew each time: what is made where gradients are off has none later.
        if field.kind == "id":
            return self._parts[f"ids/{field.table}"][:, field.column]
        if field.kind == "number":
            return self._numbers[:, field.column : field.column + 1]
        return self._parts[f"{field.kind}/{field.name}"]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the feature names, in the order of their declaration."""
        return iter(self._fields)

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self._fields)

    @property
    def num_rows(self) -> int:
        """Rows of the batch."""
        # As it is: while a network is exported this is a symbol, and a whole number would tie it to one size.
        return self._numbers.shape[0]

    def numbers(self) -> Tensor:
        """Return all ``Number`` features as one tensor (rows, numbers), in the order of their declaration."""
        return self._numbers

    def mask(self, name: str) -> Tensor:
        """Return where a padded ``IdList`` holds an id: bool, (rows, length)."""
        mask = self._parts.get(f"mask/{name}")
        if mask is None:
            padded = [
                field.name
                for field in self._fields.values()
                if field.pooling == "pad" and field.kind == "list"
            ]
            raise JobError(f"x.mask({name!r}): only a padded IdList has a mask; here: {padded}")
        return mask

    def stack(self, *names: str) -> Tensor:
        """Return embedding features side by side: (rows, features, dim).

        Parameters
        ----------
        *names : str
            Default: every ``Id`` and every summed or averaged ``IdList``, in the order of their declaration.

        Raises
        ------
        JobError
            If the features differ in dim.

        Notes
        -----
        No copy is made for the ids of one table in the order of their declaration.
        """
        fields = [self._field(name) for name in names] if names else self._embedded()
        if not fields:
            raise JobError("x.stack(): the job has no Id features")
        block = self._parts.get(f"ids/{fields[0].table}")
        if block is not None and all(f.kind == "id" and f.table == fields[0].table for f in fields):
            columns = [f.column for f in fields]
            if columns == list(range(block.shape[1])):
                return block
            if columns == list(range(columns[0], columns[0] + len(columns))):
                return block[:, columns[0] : columns[0] + len(columns)]
        dims = {f.dim for f in fields}
        if len(dims) > 1:
            named = ", ".join(f"{f.name}: {f.dim}" for f in fields)
            raise JobError(f"x.stack() needs features of one dim, got {named}; name those that agree")
        return self._join([self[f.name] for f in fields])

    @staticmethod
    def _join(tensors: list[Tensor]) -> Tensor:
        return torch.stack(tensors, dim=1)

    def _embedded(self) -> list[Field]:
        return [
            f for f in self._fields.values() if f.kind == "id" or (f.kind == "list" and f.pooling != "pad")
        ]

    def _field(self, name: str) -> Field:
        for field in self._embedded():
            if field.name == name:
                return field
        raise JobError(f"x.stack({name!r}): expected one of {[f.name for f in self._embedded()]}")


@dataclass(frozen=True, slots=True)
class Part:
    """One of the tensors that make up an `Inputs`.

    Attributes
    ----------
    name : str
        Its kind, and what it is of, such as "ids/d16" or "list/tags".
    shape : tuple of int
        Of one row.
    dtype : torch.dtype
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


def parts_of(layout: Layout) -> tuple[Part, ...]:
    """Return the parts of every batch of `layout`, in the order of `gather_parts`."""
    parts = []
    for spec in layout.tables:
        if ids := layout.ids(spec.name):
            parts.append(Part(f"ids/{spec.name}", (len(ids), spec.dim)))
        for field in layout.lists(spec.name):
            if field.pooling == "pad":
                parts.append(Part(f"list/{field.name}", (field.length, spec.dim)))
                parts.append(Part(f"mask/{field.name}", (field.length,), torch.bool))
            else:
                parts.append(Part(f"list/{field.name}", (spec.dim,)))
    parts.append(Part("numbers", (sum(field.kind == "number" for field in layout.fields),)))
    parts += [Part(f"tensor/{field.name}", field.shape) for field in layout.fields if field.kind == "tensor"]
    return tuple(parts)


def gather_parts(layout: Layout, batch: Batch, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parts of a batch by name: blocks of ids, lists pooled or padded, masks, numbers, tensors.

    Parameters
    ----------
    layout : Layout
    batch : Batch
    leaves : mapping of str to Tensor, shape (keys, dim)
        The pulled rows of each table; gradients flow back to them.
    """
    rows = batch.num_rows
    parts: dict[str, Tensor] = {}
    for spec in layout.tables:
        leaf = leaves[spec.name]
        ids = layout.ids(spec.name)
        at = rows * len(ids)
        if ids:
            parts[f"ids/{spec.name}"] = _span(leaf, 0, at).view(rows, len(ids), spec.dim)
        for field in layout.lists(spec.name):
            if field.pooling == "pad":
                n = rows * field.length
                parts[f"list/{field.name}"] = _span(leaf, at, n).view(rows, field.length, spec.dim)
                keys = batch.keys[spec.name][at : at + n].reshape(rows, field.length)
                parts[f"mask/{field.name}"] = torch.from_numpy(keys != 0)
            else:
                offsets = batch.offsets[field.name]
                n = int(offsets[-1])
                pooled = _pool(_span(leaf, at, n), torch.from_numpy(offsets), field.pooling)
                parts[f"list/{field.name}"] = pooled
            at += n
    parts["numbers"] = torch.from_numpy(batch.numbers)
    for field in layout.fields:
        if field.kind == "tensor":
            parts[f"tensor/{field.name}"] = torch.from_numpy(batch.tensors[field.name])
    return parts


def gather_inputs(layout: Layout, batch: Batch, leaves: Mapping[str, Tensor]) -> Inputs:
    """Return a batch and its pulled rows, as `gather_parts` takes them, as named tensors."""
    return Inputs(layout, gather_parts(layout, batch, leaves))


def _span(leaf: Tensor, first: int, n: int) -> Tensor:
    # The gradient of a slice is a copy among zeros, that of the whole is itself.
    return leaf if n == len(leaf) else leaf[first : first + n]


def _pool(rows: Tensor, offsets: Tensor, pooling: str) -> Tensor:
    lengths = offsets[1:] - offsets[:-1]
    summed = torch.segment_reduce(rows, "sum", lengths=lengths, axis=0, unsafe=True, initial=0.0)
    if pooling == "sum":
        return summed
    return summed / lengths.clamp(min=1).unsqueeze(1)
