"""Metrics as curves in TensorBoard."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from onstream.errors import MissingExtraError

__all__ = ["TensorBoard"]


class TensorBoard:
    """Write metrics to event files that TensorBoard shows.

    Parameters
    ----------
    directory : path
        Created when missing. Each writer adds one event file.
    resume_step : int, optional
        The step at which training goes on. TensorBoard hides points after it that an earlier writer left,
        so curves do not fork after a crash.

    Raises
    ------
    MissingExtraError
        If tensorboardX is not installed.

    Notes
    -----
    When `write` returns, the operating system has the points: a crash of this process loses none of them.
    """

    def __init__(self, directory: str | os.PathLike[str], *, resume_step: int | None = None) -> None:
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.proto.summary_pb2 import Summary
        except ImportError as error:
            raise MissingExtraError(
                "reporting to TensorBoard needs tensorboardX: pip install 'onstream[tensorboard]'"
            ) from error
        self._event, self._summary = Event, Summary
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        # File names carry whole seconds and order the files; nanoseconds keep writers of one second apart.
        self._writer: EventsWriter | None = EventsWriter(str(path / "events"), f".{time.time_ns()}")
        if resume_step is not None:
            # Readers drop what they have from the step of a START on.
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(step=resume_step + 1, session_log=start, wall_time=time.time()))
        self._writer.flush()

    def write(self, metrics: Mapping[str, float], *, step: int, wall_time: float) -> None:
        """Add one point to each metric's curve. Undefined metrics (NaN) get no point.

        Parameters
        ----------
        metrics : mapping of str to float
            TensorBoard puts names that agree up to the first "/" into one section.
        step : int
            Examples seen by the job so far.
        wall_time : float
            Seconds since 1970.
        """
        if self._writer is None:
            raise ValueError("this TensorBoard is closed")
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in metrics.items()
            if not math.isnan(value)
        ]
        self._writer.write_event(
            self._event(step=step, wall_time=wall_time, summary=self._summary(value=values))
        )
        self._writer.flush()

    def close(self) -> None:
        """Close the event file. Closing again does nothing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
