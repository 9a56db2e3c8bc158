"""What columns mean: the declarations that the features of a job are made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal, NoReturn, TypeAlias

from onstream.contracts import RowPolicy, Task
from onstream.errors import JobError

__all__ = [
    "DEFAULT_DIM",
    "POLICIES",
    "Declaration",
    "Embedded",
    "EventTime",
    "Feature",
    "Group",
    "Id",
    "IdList",
    "Label",
    "Number",
    "Tensor",
    "Weight",
]

POLICIES = ("optimizer", "initial", "admission", "expiry")
"""What rules the rows of a table, besides their width."""

DEFAULT_DIM = 16

# Class labels are float32, which counts exactly up to here.
MAX_CLASSES = 2**24

# A shown value must stay finite in float32.
_LARGEST_CLIP = 1e38

TimeUnit: TypeAlias = Literal["s", "ms", "us", "ns"]


class Declared:
    """What every declaration has: a name, and a column that it reads."""

    name: str
    column: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not isinstance(self.name, str) or not self.name:
            _refuse(self, "the name must be a text that is not empty")
        if self.column is not None and (not isinstance(self.column, str) or not self.column):
            _refuse(self, f"column must be a name that is not empty, got {self.column!r}")
        self._check()

    @property
    def source(self) -> str:
        """The column that the values come from."""
        return self.column or self.name

    def _check(self) -> None:
        """Refuse what is wrong with this kind of declaration."""


@dataclass(frozen=True, kw_only=True)
class Embedded(Declared):
    """What every feature with rows of its own may say about them; None is the job's default."""

    optimizer: RowPolicy | None = None
    initial: RowPolicy | None = None
    admission: RowPolicy | None = None
    expiry: RowPolicy | None = None


@dataclass(frozen=True)
class Id(Embedded):
    """Read a column as one id a row; each id has a row of `dim` learned floats.

    Use it for whatever names a thing: users, items, words, countries, hours of the day.

    Parameters
    ----------
    name : str
        How the network sees it.
    dim : int, optional
        Width of a row; 16, or that of the feature it shares rows with.
    column : str, optional
        Where the values come from; `name` if not given.
    shared : str, optional
        Another feature, whose rows this one reads and trains too: equal values have one row.
    optimizer, initial, admission, expiry : RowPolicy, optional
        What rules the rows; the job's default if not given.

    Notes
    -----
    Integers, booleans, strings, binaries, dates, times, whole floats and whole decimals are read, dictionary
    encoded or not. An integer and its canonical decimal text are the same id, so the type of a column may
    change on the way. A null is an id of its own. A string of more than 65536 bytes or a float with a
    fraction is a reject.

    Examples
    --------
    >>> Id("user", 32).source
    'user'
    """

    name: str
    dim: int | None = None
    _: KW_ONLY
    column: str | None = None
    shared: str | None = None

    def _check(self) -> None:
        _check_rows(self)


@dataclass(frozen=True)
class IdList(Embedded):
    """Read a list column as a varying number of ids a row.

    Use it for histories, tags and words of a text. The network sees the sum or the mean of the rows, or, with
    "pad", all of them and a mask.

    Parameters
    ----------
    name, dim, column, shared, optimizer, initial, admission, expiry
        As for `Id`.
    pooling : {"sum", "mean", "pad"}
    length : int, optional
        For "pad", and needed there: ids beyond it are cut off, fewer are padded.
    separator : str, optional
        Splits the texts of a string column into lists; empty parts are skipped.
    max_length : int
        A longer list is a reject.

    Notes
    -----
    A null list is empty; null elements are skipped. Elements are read as `Id` reads a column.
    """

    name: str
    dim: int | None = None
    _: KW_ONLY
    pooling: Literal["sum", "mean", "pad"] = "sum"
    length: int | None = None
    separator: str | None = None
    max_length: int = 10_000
    column: str | None = None
    shared: str | None = None

    def _check(self) -> None:
        _check_rows(self)
        if self.pooling not in ("sum", "mean", "pad"):
            _refuse(self, f"pooling must be 'sum', 'mean' or 'pad', got {self.pooling!r}")
        if self.pooling == "pad" and self.length is None:
            _refuse(self, "pooling 'pad' needs a length, such as length=50")
        if self.pooling != "pad" and self.length is not None:
            _refuse(self, f"a length goes with pooling='pad', not with {self.pooling!r}")
        if self.length is not None:
            _check_count(self, "length", self.length)
        if self.separator == "":
            _refuse(self, "separator must not be empty; give a text such as '|'")
        _check_count(self, "max_length", self.max_length)


@dataclass(frozen=True)
class Number(Embedded):
    """Read a column as one number a row, or, with `bounds`, as the id of the bucket it falls in.

    Parameters
    ----------
    name : str
    log : bool
        Take sign(x) log(1 + abs(x)), which tames counts and prices.
    standardize : bool
        Then subtract the mean and divide by the standard deviation of all earlier batches.
    clip : float
        A standardised value is shown as at most this far from 0: early on, the deviation of a few examples
        can be tiny.
    bounds : sequence of float, optional
        Increasing. Bucket i holds bounds[i - 1] <= x < bounds[i]; nulls have a bucket of their own. Buckets
        have rows, as the ids of an `Id` have.
    dim : int, optional
        Width of a bucket's row; 16 if not given.
    fill : float
        What the network sees for a null, after all transforms.
    column : str, optional
        Where the values come from; `name` if not given.
    optimizer, initial, admission, expiry : RowPolicy, optional
        For buckets, as for `Id`.

    Notes
    -----
    Integers, floats, decimals, booleans and strings that are numbers are read. NaN counts as null. Infinities
    and what float32 cannot hold are rejects, and so is text that is no number.

    A batch is standardised with the statistics from before it: what is predicted for a row never depends on
    later rows or on its neighbours. Before any data there is no scale yet, and `fill` is shown.

    Changed bounds keep the rows of those buckets whose two bounds stayed.
    """

    name: str
    _: KW_ONLY
    log: bool = False
    standardize: bool = False
    clip: float = 10.0
    bounds: Sequence[float] | None = None
    dim: int | None = None
    fill: float = 0.0
    column: str | None = None

    def _check(self) -> None:
        if not math.isfinite(self.fill):
            _refuse(self, f"fill must be finite, got {self.fill!r}")
        if not 0 < self.clip <= _LARGEST_CLIP:
            _refuse(self, f"clip must be above 0 and at most {_LARGEST_CLIP:g}, got {self.clip!r}")
        if self.bounds is None:
            given = [n for n in ("dim", *POLICIES) if getattr(self, n) is not None]
            if given:
                _refuse(self, f"{given[0]} is for the rows of buckets; give bounds=[...] too")
            return
        if self.log or self.standardize or self.fill != 0.0:
            _refuse(self, "bounds already say what the network sees; leave out log, standardize and fill")
        bounds = tuple(float(b) for b in self.bounds)
        rising = all(a < b for a, b in itertools.pairwise(bounds))
        if not bounds or not rising or not all(map(math.isfinite, bounds)):
            _refuse(self, f"bounds must be finite numbers that increase, got {list(bounds)!r}")
        # A tuple, so that the declaration can be compared and hashed.
        object.__setattr__(self, "bounds", bounds)
        if self.dim is None:
            object.__setattr__(self, "dim", DEFAULT_DIM)
        _check_count(self, "dim", self.dim)


@dataclass(frozen=True)
class Tensor(Declared):
    """Read a column as a block of numbers a row: an image, an embedding made elsewhere, a window of a signal.

    Parameters
    ----------
    name : str
    shape : tuple of int
        The column holds lists of as many numbers, nested or flat, or binaries of as many bytes.
    column : str, optional
        Where the values come from; `name` if not given.
    scale : float
        Every value is multiplied by it; 1 / 255 takes bytes to the range from 0 to 1.

    Notes
    -----
    A null, a wrong number of values and a value that is not finite are rejects.
    """

    name: str
    shape: tuple[int, ...]
    _: KW_ONLY
    column: str | None = None
    scale: float = 1.0

    def _check(self) -> None:
        # A list is as good, but could not be hashed.
        shape = tuple(self.shape)
        if not shape:
            _refuse(self, "shape must have at least one side; a single number is a Number")
        for side in shape:
            _check_count(self, "shape", side)
        object.__setattr__(self, "shape", shape)
        if not math.isfinite(self.scale) or self.scale == 0:
            _refuse(self, f"scale must be finite and not 0, got {self.scale!r}")


@dataclass(frozen=True)
class Label(Declared):
    """Read a column as what is to be predicted. Several labels make a multi-task job.

    Parameters
    ----------
    name : str
    task : {"binary", "real", "class"}
        "binary": booleans, 0 and 1, or the texts "0", "1", "true" and "false". "real": a finite number.
        "class": a whole number from 0 to classes - 1.
    classes : int, optional
        For "class", and needed there.
    column : str, optional
        Where the values come from; `name` if not given.
    required : bool
        A null is a reject; without it, the row teaches the other labels only.
    threshold : float, optional
        For "binary": the column holds numbers, and those of at least `threshold` are positive.
    """

    name: str
    task: Task = "binary"
    _: KW_ONLY
    classes: int | None = None
    column: str | None = None
    required: bool = True
    threshold: float | None = None

    def _check(self) -> None:
        if self.task not in ("binary", "real", "class"):
            _refuse(self, f"task must be 'binary', 'real' or 'class', got {self.task!r}")
        if self.task == "class" and self.classes is None:
            _refuse(self, "task 'class' needs the number of classes, such as classes=10")
        if self.task != "class" and self.classes is not None:
            _refuse(self, f"classes go with task 'class', not with {self.task!r}")
        if self.classes is not None:
            _check_count(self, "classes", self.classes)
            if not 2 <= self.classes <= MAX_CLASSES:
                _refuse(self, f"classes must be from 2 to {MAX_CLASSES}, got {self.classes!r}")
        if self.threshold is not None and self.task != "binary":
            _refuse(self, f"a threshold goes with task 'binary', not with {self.task!r}")
        if self.threshold is not None and not math.isfinite(self.threshold):
            _refuse(self, f"threshold must be finite, got {self.threshold!r}")


@dataclass(frozen=True)
class Weight(Declared):
    """Read a column as how much each row counts in the loss: finite and not negative; a null is 1."""

    name: str


@dataclass(frozen=True)
class EventTime(Declared):
    """Read a column as when each row happened; it drives the expiry of rows and is not seen by the network.

    Parameters
    ----------
    name : str
        The column: timestamps of any unit and zone, dates, numbers since 1970, or ISO-8601 texts. Times
        without a zone are UTC.
    unit : {"s", "ms", "us", "ns"}
        Of numbers.

    Notes
    -----
    Times are whole seconds from 1970 to 2106; others are rejects. A null happened when its neighbours did. A row
    far beyond both its batch and all that came before is a reject: ten times the spread between the quartiles of
    the batch, and ten days at least, unless more than one row in a hundred says so. Believed, it would make
    every other row expire.
    """

    name: str
    unit: TimeUnit = "s"

    def _check(self) -> None:
        if self.unit not in ("s", "ms", "us", "ns"):
            _refuse(self, f"unit must be 's', 'ms', 'us' or 'ns', got {self.unit!r}")


@dataclass(frozen=True)
class Group(Declared):
    """Read a column as what metrics are grouped by, such as the user of a grouped AUC.

    The network never sees it; the same column may be an `Id` too.
    """

    name: str


Feature: TypeAlias = Id | IdList | Number | Tensor
"""What the network sees."""

Declaration: TypeAlias = Feature | Label | Weight | EventTime | Group


def _refuse(declaration: Declared, text: str) -> NoReturn:
    raise JobError(f"{type(declaration).__name__}({declaration.name!r}): {text}")


def _check_count(declaration: Declared, what: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        _refuse(declaration, f"{what} must be a whole number of at least 1, got {value!r}")


def _check_rows(declaration: Id | IdList) -> None:
    if declaration.dim is None and declaration.shared is None:
        object.__setattr__(declaration, "dim", DEFAULT_DIM)
    if declaration.dim is not None:
        _check_count(declaration, "dim", declaration.dim)
    if declaration.shared == declaration.name:
        _refuse(declaration, "shared must name another feature")
