"""A job: what to read, what it means, what learns, and where it is kept."""

from __future__ import annotations

import ast
import os
import runpy
import sys
import threading
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pyarrow as pa

from onstream.contracts import (
    Chunk,
    Layout,
    Learner,
    Reject,
    RowPolicy,
    Stream,
    peeked,
    placed,
    selected,
    take_notes,
)
from onstream.errors import JobError, OnstreamError
from onstream.evaluate import Prometheus, Sink, TensorBoard
from onstream.features import Declaration, Features
from onstream.feedback import Policy, labelling_of
from onstream.streams import Ahead
from onstream.tables import Adagrad, Chance, Constant, Expire, Normal, RowOptimizer, SeenTimes, Uniform
from onstream.trainer import Gate, Guard, Observer, Settings, Summary, Trainer, WarmStart
from onstream.trainer.signals import stopped_by_signals

__all__ = ["Check", "Job", "load_job", "load_one"]

_Kind = TypeVar("_Kind")

# A look at a stream that brings so many of these and no row is over: it may never bring one.
_MANY_REJECTS = 1000

# What may rule the rows of a feature, and an example of it.
_POLICIES: dict[str, tuple[tuple[type, ...], str]] = {
    "optimizer": ((RowOptimizer,), "Adagrad(lr=0.05)"),
    "initial": ((Constant, Uniform, Normal), "Uniform(-0.01, 0.01)"),
    "admission": ((SeenTimes, Chance), "SeenTimes(3)"),
    "expiry": ((Expire,), 'Expire("30d")'),
}


@dataclass(frozen=True, slots=True)
class Check:
    """What a job makes of the beginning of its stream.

    Attributes
    ----------
    rows : list of dict
        The first rows as they are read: name to encoded form, or the reason why a row is rejected.
    rejects : tuple of Reject
        Rows before and among them that could not even be decoded.
    schema : pyarrow.Schema
        The columns of the stream, of which the features read some.
    outputs : dict of str to list of float
        What the network, before training, predicts for the good ones of these rows.
    notes : tuple of str
        What the stream had to tell meanwhile, such as that its broker does not answer.
    """

    rows: list[dict[str, Any]]
    rejects: tuple[Reject, ...]
    schema: pa.Schema
    outputs: dict[str, list[Any]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job(Settings):
    """A model that learns from a stream.

    Parameters
    ----------
    stream : Stream
        What to read, such as `Files` or `Log`.
    features : sequence of declarations
        What the columns mean: `Id`, `IdList`, `Number`, `Tensor`, `Label`, `Weight`, `EventTime`, `Group`.
    learner : Learner
        What learns, such as `Torch`.
    directory : path
        Where checkpoints and dead letters are kept. A job whose directory has checkpoints goes on from the newest.
    optimizer, initial, admission, expiry : RowPolicy, optional
        Of the embedding rows of features that name none: `Adagrad`, `Uniform`, admitted at first sight, kept
        for ever. An expiry needs an `EventTime`.
    warm_start : WarmStart, optional
        A model trained elsewhere, to begin with where the directory has no checkpoint.
    tensorboard : path, optional
        Write TensorBoard event files there (needs ``onstream[tensorboard]``).
    prometheus : int, optional
        Serve metrics on this port of 127.0.0.1; 0 takes a free one and a note tells which (needs
        ``onstream[prometheus]``).
    **settings
        As `onstream.trainer.Settings`: batch_size, checkpoint_every_s and so on.

    Examples
    --------
    >>> from torch import nn
    >>> from onstream import Files, Id, Job, Label, Torch
    >>> class Sum(nn.Module):
    ...     def forward(self, x):
    ...         return x.stack().sum((1, 2))
    >>> job = Job(Files("clicks.csv"), [Id("user", dim=1), Label("click")], Torch(Sum), "models/clicks")
    >>> job.describe()["settings"]["batch_size"]
    1024
    """

    stream: Stream
    features: Sequence[Declaration]
    learner: Learner
    directory: str | Path
    optimizer: RowPolicy | None = None
    initial: RowPolicy | None = None
    admission: RowPolicy | None = None
    expiry: RowPolicy | None = None
    warm_start: WarmStart | None = None
    tensorboard: str | Path | None = None
    prometheus: int | None = None

    def __post_init__(self) -> None:
        """Check that the parts are what they should be."""
        super().__post_init__()
        for name, kind in (("stream", Stream), ("learner", Learner)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise JobError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")
        for name in ("directory", "tensorboard"):
            value = getattr(self, name)
            if not isinstance(value, str | os.PathLike) and (name == "directory" or value is not None):
                raise JobError(f"{name} must be a path, got {value!r}")
        if self.prometheus is not None and type(self.prometheus) is not int:
            raise JobError(f"prometheus must be the number of a port, got {self.prometheus!r}")
        if not isinstance(self.features, Sequence):
            raise JobError(f"features must be a list of declarations, got {self.features!r}")
        for owner in (self, *self.features):
            _check_policies(owner)
        # Whatever else is wrong with the features, the gate or the guard is told where the job is made.
        features = self.encoder()
        Gate.of(self, features.layout, features.groups)
        Guard.of(self, features.layout)
        if self.warm_start is not None:
            if not isinstance(self.warm_start, WarmStart):
                raise JobError(f"warm_start must be a WarmStart, got {self.warm_start!r}")
            self.warm_start.check(features, self.learner)

    def encoder(self) -> Features:
        """Return the features, resolved to their layout."""
        policies = {
            "optimizer": self.optimizer or Adagrad(),
            "initial": self.initial or Uniform(),
            "admission": self.admission,
            "expiry": self.expiry,
        }
        # A learner of plain values sees the columns as they are.
        plain = bool(getattr(self.learner, "reads_columns", False))
        features = Features(
            self.features, defaults=policies, plain=plain, labelling=labelling_of(self.stream)
        )
        _check_late(features.layout, self.learner)
        expiring = [spec.name for spec in features.layout.tables if spec.policy.get("expiry")]
        if expiring and not features.timed:
            raise JobError("an expiry counts event time; declare its column, such as EventTime('timestamp')")
        return features

    def train(self, observer: Observer | None = None, *, stop: threading.Event | None = None) -> Summary:
        """Train from the newest checkpoint until the stream ends, `stop` is set, or SIGTERM or SIGINT comes.

        Raises
        ------
        OnstreamError
            As `Trainer.run` says.
        """
        stop = stop or threading.Event()
        with stopped_by_signals(stop) as received:
            summary = self.trainer(observer).run(stop)
        return replace(summary, signals=tuple(received))

    def trainer(self, observer: Observer | None = None) -> Trainer:
        """Return the trainer of this job, ready to run."""
        features = self.encoder()
        return Trainer(
            placed(selected(self.stream, features.columns), Path(self.directory) / "stream"),
            features,
            self.learner,
            self.directory,
            settings=self.only(),
            facts={"job": self.describe()},
            sinks=partial(self._sinks, observer),
            observer=observer,
            warm_start=self.warm_start,
        )

    def check(self, num_rows: int = 3) -> Check:
        """Read the first rows, encode them, and let the network, not trained yet, predict them.

        A live stream that is silent is waited for as long as `max_wait_s` says.

        Raises
        ------
        OnstreamError
            For whatever would keep the job from running.
        """
        features = self.encoder()
        rejects: list[Reject] = []
        notes: list[str] = []
        batch = None
        with closing(self._first_chunks(selected(self.stream, features.columns), num_rows, notes)) as chunks:
            for chunk in chunks:
                rejects += chunk.rejects
                if chunk.batch.num_rows:
                    batch = chunk.batch.slice(0, num_rows)
                if batch is not None or len(rejects) >= _MANY_REJECTS:
                    break
        if batch is None:
            return Check([], tuple(rejects), self.stream.schema(), {}, tuple(notes))
        rows = features.preview(batch, num_rows)
        good = batch.filter(pa.array(["rejected" not in row for row in rows]))
        trainer = self.trainer()
        trainer.begin_warm()
        found = trainer.predict(good) if good.num_rows else {}
        outputs = {name: values.tolist() for name, values in found.items()}
        return Check(rows, tuple(rejects), self.stream.schema(), outputs, tuple(notes))

    def describe(self) -> dict[str, Any]:
        """Return the job as JSON values, for people and for the checkpoint."""
        return {
            "stream": _describe(self.stream),
            "features": self.encoder().describe(),
            "learner": _describe(self.learner),
            "directory": str(self.directory),
            "settings": {
                **asdict(self.only()),
                "max_wait_s": self.pace("max_wait_s"),
                "checkpoint_every_s": self.pace("checkpoint_every_s"),
            },
        }

    def replace(self, changes: Mapping[str, Any]) -> Job:
        """Return the job with some settings changed.

        Parameters
        ----------
        changes : mapping of str to value
            By name; a dot reaches into a part, as in "learner.lr". A text is read as a Python literal where it
            is one, so that "1024" is a number.

        Raises
        ------
        JobError
            If there is no setting of that name, or it cannot have that value.
        """
        job = self
        for name, value in changes.items():
            job = _changed(job, name.split("."), value, name)
        return job

    def _sinks(self, observer: Observer | None, step: int) -> Iterator[Sink]:
        if self.tensorboard is not None:
            yield TensorBoard(self.tensorboard, resume_step=step)
        if self.prometheus is not None:
            prometheus = Prometheus(self.prometheus)
            yield prometheus
            if observer:
                observer.note(f"metrics are served at http://{prometheus.address}:{prometheus.port}/metrics")

    def _first_chunks(self, stream: Stream, num_rows: int, notes: list[str]) -> Generator[Chunk, None, None]:
        """Yield the beginning of a stream, until it ends or is silent; add to `notes` what it tells meanwhile."""
        stop = threading.Event()
        # Not in the job's directory: what a stream keeps there belongs to its checkpoints.
        with TemporaryDirectory() as folder:
            # A look at a stream is nothing that others who share it should hear of.
            seen = placed(peeked(stream), Path(folder))
            chunks = seen.read({}, max_rows=max(num_rows, 1), stop=stop)
            try:
                with Ahead(chunks, depth=1, stop=stop) as ahead:
                    while isinstance(
                        chunk := ahead.take(self.pace("max_wait_s") if stream.live else None), Chunk
                    ):
                        yield chunk
            finally:
                notes += take_notes(seen)


def load_job(path: str | Path) -> Job:
    """Run a job file and return the `Job` that it makes.

    Raises
    ------
    JobError
        If the file cannot be read, fails, or makes no job or several; the message names file and line.
    """
    return load_one(path, Job, f"`onstream init {path}` writes one")


def load_one(path: str | Path, kind: type[_Kind], hint: str) -> _Kind:
    """Run a file and return the one object of a kind, such as `Job`, that it makes.

    Parameters
    ----------
    path : path
    kind : type
    hint : str
        Where such a file comes from, for the error if there is none.

    Raises
    ------
    JobError
        If the file cannot be read, fails, or makes none or several; the message names file and line.
    """
    path = Path(path)
    name = kind.__name__
    word = name.lower()
    if not path.is_file():
        raise JobError(f"there is no {word} file {str(path)!r}; {hint}")
    # A job file may import its neighbours, as a script may.
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        made = runpy.run_path(str(path))
    except OnstreamError as error:
        raise JobError(f"{_where(path, error)}: {error}") from error
    except Exception as error:
        raise JobError(f"{_where(path, error)}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    found = {id(value): value for value in made.values() if isinstance(value, kind)}
    if len(found) != 1:
        several = f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"
        told = f"{len(found)} {several}" if found else f"no {name}"
        raise JobError(
            f"{path}: a {word} file makes one {name}, as in `{word} = {name}(...)`; this one makes {told}"
        )
    return next(iter(found.values()))


def _where(path: Path, error: BaseException) -> str:
    """Return the place in the job file at which an error came up."""
    if isinstance(error, SyntaxError) and error.filename == str(path) and error.lineno:
        return f"{path}, line {error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def _check_policies(owner: Job | Declaration) -> None:
    for name, (kinds, example) in _POLICIES.items():
        policy = getattr(owner, name, None)
        if policy is not None and not isinstance(policy, kinds):
            whose = "" if isinstance(owner, Job) else f"{type(owner).__name__}({owner.name!r}): "
            raise JobError(f"{whose}{name} must be such as {example}, got {policy!r}")


def _check_late(layout: Layout, learner: Learner) -> None:
    """Raise unless the learner makes up for labels that are not final, or negatives that were left out."""
    if getattr(learner, "corrects_labels", False):
        return
    for label in layout.labels:
        what = None
        if isinstance(label.policy, Policy) and label.policy.weighs:
            what = f"the policy {label.policy.kind!r}; use 'wait'"
        elif label.kept < 1:
            what = "negatives that were left out; learn from all"
        if what:
            raise JobError(f"label {label.name!r}: {type(learner).__name__} does not make up for {what}")


def _literal(value: Any, current: Any) -> Any:
    """Return what a text means in the place of `current`."""
    if not isinstance(value, str):
        return value
    plain = {"true": True, "false": False, "null": None}
    if value.lower() in plain:
        return plain[value.lower()]
    try:
        read = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    # A directory may be called 2024.
    return value if isinstance(current, str | os.PathLike) and isinstance(read, int | float) else read


def _settings(part: Any) -> Mapping[str, Any]:
    """Return what a part is made of, by name: the fields of a dataclass, or what it says itself."""
    if is_dataclass(part):
        made = [f.name for f in fields(part) if f.init or f.name in vars(part)]
        return {name: getattr(part, name) for name in made}
    own = getattr(part, "settings", None)
    return own if isinstance(own, Mapping) and hasattr(part, "replace") else {}


def _changed(part: Any, path: list[str], value: Any, whole: str) -> Any:
    """Return a copy of a part with one setting changed."""
    settings = _settings(part)
    if path[0] not in settings:
        has = ", ".join(sorted(settings)) or "none"
        raise JobError(f"there is no setting {whole!r}; the settings of {type(part).__name__}: {has}")
    current = settings[path[0]]
    value = _changed(current, path[1:], value, whole) if len(path) > 1 else _literal(value, current)
    own = getattr(part, "replace", None)
    try:
        if own is not None and not isinstance(part, Job):
            return own(**{path[0]: value})
        changed = replace(part, **{path[0]: value})
    except (TypeError, ValueError) as error:
        raise JobError(f"{whole}={value!r}: {error}") from error
    return changed


def _describe(part: Any) -> dict[str, Any]:
    """Return what can be told of a part as plain values."""
    described: dict[str, Any] = {"kind": type(part).__name__}
    for name, value in _settings(part).items():
        if not name.startswith("_"):
            plain = isinstance(value, str | int | float | bool | type(None))
            text = value if plain else _name(value)
            if plain or " object at 0x" not in text:
                described[name] = text
    return described


def _name(value: Any) -> str:
    if isinstance(value, type) or callable(value):
        return str(getattr(value, "__qualname__", type(value).__name__))
    text = str(value)
    return text if len(text) < 200 else f"{text[:200]}..."
