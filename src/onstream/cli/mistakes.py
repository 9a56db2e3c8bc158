"""What is shown of an error in the user's own code."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

import onstream
from onstream.cli.console import err
from onstream.errors import OnstreamError

__all__ = ["WHOLE", "mistakes_shown"]

WHOLE = "ONSTREAM_TRACEBACK"
"""The environment variable that, if it is set, has tracebacks shown from their beginning."""

_INSTALLED = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")


@contextmanager
def mistakes_shown(path: Path) -> Iterator[None]:
    """Show an error that comes out of a job file, or of what lies beside it, from there on, and exit with 1.

    What led there is onstream's own and says nothing of the mistake. An error that no line of the user's is part of is
    onstream's, and stays whole.
    """
    try:
        yield
    except OnstreamError:
        raise
    except Exception as error:
        if os.environ.get(WHOLE) or (told := _told(error, path)) is None:
            raise
        err.print(told, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _told(error: Exception, path: Path) -> str | None:
    """Return the line that failed and the traceback from the user's code on; None if no frame is the user's."""
    told = traceback.TracebackException.from_exception(error)
    own = [_is_own(frame.filename, path) for frame in told.stack]
    if not any(own):
        return None
    first, last = own.index(True), len(own) - 1 - own[::-1].index(True)
    failed = told.stack[last]
    told.stack = traceback.StackSummary.from_list(told.stack[first:])
    what = "".join(told.format_exception_only()).strip().partition("\n")[0]
    return (
        f"onstream: {failed.filename}, line {failed.lineno}: {what}\n\n{''.join(told.format())}\n"
        f"({WHOLE}=1 shows what led there, too)"
    )


def _is_own(file: str, path: Path) -> bool:
    """Return whether a file is the job file, or one beside or below it that nobody installed."""
    if file == str(path):
        return True
    where = Path(file).resolve()
    if not where.is_file() or not where.is_relative_to(path.parent.resolve()):
        return False
    # An environment may lie beside the job file.
    installed = [onstream.__path__[0], *(sysconfig.get_path(name) for name in _INSTALLED)]
    return not any(where.is_relative_to(Path(folder).resolve()) for folder in installed)
