"""Every error a user can meet.

::

    OnstreamError
    ├── JobError          (ValueError)       the job file, an option or a setting is wrong
    ├── ColumnError       (ValueError)       a column cannot be read as its feature declares
    ├── ShapeError        (ValueError)       an array has another shape than the call needs
    ├── StreamError       (OSError)          a source cannot be read, or cannot be read from there
    │   ├── FencedError                      a writer's name is another's now, or its transaction took too long
    │   └── GroupChangedError                a group has changed since its membership was told
    ├── BadInputError     (RuntimeError)     too large a share of recent rows is bad
    ├── DivergedError     (ArithmeticError)  loss or gradients keep being NaN or infinite
    ├── CheckpointError   (OSError)          a checkpoint cannot be written, found or used
    │   └── DamagedError                     a file of a checkpoint is missing or changed
    ├── MissingExtraError (ImportError)      an optional library is not installed
    ├── RequestError      (ValueError)       a request cannot be answered as it was put
    ├── NotFoundError     (LookupError)      there is no model, version or log of that name
    ├── AccessError       (PermissionError)  a request has no right to what it asks
    ├── UnavailableError  (ConnectionError)  not now: too busy, not ready, or going away; ask again
    └── DeadlineError     (TimeoutError)     the answer would come too late

Each is also the nearest built-in error, carries one message, and can be pickled.
"""

__all__ = [
    "AccessError",
    "BadInputError",
    "CheckpointError",
    "ColumnError",
    "DamagedError",
    "DeadlineError",
    "DivergedError",
    "FencedError",
    "GroupChangedError",
    "JobError",
    "MissingExtraError",
    "NotFoundError",
    "OnstreamError",
    "RequestError",
    "ShapeError",
    "StreamError",
    "UnavailableError",
]


class OnstreamError(Exception):
    """Root of all errors that onstream raises for a user to meet."""


class JobError(OnstreamError, ValueError):
    """The job file, an option or a setting is wrong."""


class ColumnError(OnstreamError, ValueError):
    """A column cannot be read as its feature declares."""


class ShapeError(OnstreamError, ValueError):
    """An array has another shape than the call needs."""


class StreamError(OnstreamError, OSError):
    """A source cannot be read, or cannot be read from the asked position."""


class FencedError(StreamError):
    """The broker heeds this writer no more, and never will again; what it was writing is not there.

    Another writer has begun under its name, or one of its transactions lay open for so long that the broker has
    ended it. A new writer of the same name may go on.
    """


class GroupChangedError(StreamError):
    """The consumer group has changed since its membership was told; what was to be written with it is not there.

    With the newer membership it may be written again, if the group has left its partitions where they were.
    """


class BadInputError(OnstreamError, RuntimeError):
    """More than the allowed share of recent rows is bad."""


class DivergedError(OnstreamError, ArithmeticError):
    """Loss or gradients keep being NaN or infinite."""


class CheckpointError(OnstreamError, OSError):
    """A checkpoint cannot be written, found or used."""


class DamagedError(CheckpointError):
    """A file of a checkpoint is missing, shortened or changed."""


class MissingExtraError(OnstreamError, ImportError):
    """An optional library is not installed; the message names the extra to install."""


class RequestError(OnstreamError, ValueError):
    """A request cannot be answered as it was put: a name, type, shape, size or value is wrong."""


class NotFoundError(OnstreamError, LookupError):
    """There is no model, version or log of that name."""


class AccessError(OnstreamError, PermissionError):
    """A request has no right to what it asks: its token or certificate is missing or wrong."""


class UnavailableError(OnstreamError, ConnectionError):
    """Not now: the server is too busy, not ready, or going away. Asking again may help."""


class DeadlineError(OnstreamError, TimeoutError):
    """The answer would come after the request's deadline."""
