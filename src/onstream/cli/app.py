"""The command line; every command is one thin function over the rooms below."""

from __future__ import annotations

import difflib
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import pyarrow as pa
import typer
from rich.pretty import pretty_repr
from rich.table import Table
from rich.text import Text

from onstream.cli.checkpoints import checkpoints, release, resume, rollback
from onstream.cli.choice import estimate
from onstream.cli.console import err, out, say
from onstream.cli.evolution import es
from onstream.cli.mistakes import mistakes_shown
from onstream.cli.options import parse_changes
from onstream.cli.run import train_and_serve
from onstream.cli.scoring import score
from onstream.cli.serving import serve
from onstream.cli.templates import TEMPLATES, hidden_by, job_text, template_of, write_sample
from onstream.cli.terminal import watching
from onstream.errors import BadInputError, JobError, OnstreamError
from onstream.features import Declaration, Feature, guess, leaking
from onstream.job import Job, load_job
from onstream.serving.beside import Status
from onstream.streams import Files
from onstream.trainer import Observer, Summary

__all__ = ["app", "run"]

_MOST_REJECTS = 10
# How a reject tells that a column is missing.
_MISSING = re.compile(r"missing column '([^']+)'")

app = typer.Typer(
    help="Train a model on a live stream and serve it while it learns.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(checkpoints, name="checkpoints")
app.add_typer(es, name="es")

JobFile = Annotated[Path, typer.Argument(help="The job file.", show_default=False)]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Change a setting, such as batch_size=4096 or learner.lr=0.01."
    ),
]

Every = Annotated[float, typer.Option(metavar="SECONDS", help="Between lines where there is no terminal.")]

_SAMPLE_ROWS = 5_000


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The job file to write.", show_default=False)],
    template: Annotated[str, typer.Option(help=f"The network: {', '.join(TEMPLATES)}.")] = "deepfm",
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="Guess the features from this file, directory or glob."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Write a job file to edit. Without --from it comes with a sample of made-up examples to learn from."""
    if path.exists() and not force:
        raise JobError(f"{path} exists; choose another name, or say --force")
    directory = f"models/{path.stem}"
    sample = path.with_name(f"{path.stem}-sample{template_of(template).suffix}")
    if source is None:
        text = job_text(str(path), template, str(sample), directory)
    else:
        features, telling = _guessed(source)
        text = job_text(str(path), template, source, directory, features, telling=telling)
    if module := hidden_by(path, text):
        raise JobError(f"{path} would hide the module {module!r} from what imports it; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if source is None:
        write_sample(sample, template)
        say(f"wrote {sample}: made-up examples, to be replaced by your data")
    say(f"wrote {path}; next:\n  onstream check {path}\n  onstream train {path}")


@app.command()
def check(
    path: JobFile,
    changes: Changes = None,
    rows: Annotated[int, typer.Option(min=1, help="How many rows to show.")] = 3,
) -> None:
    """Print the resolved job, the first rows as the model sees them, and what it predicts before training."""
    job = load_job(path).replace(parse_changes(changes))
    with mistakes_shown(path):
        found = job.check(rows)
    say(pretty_repr(job.describe(), max_width=out.width))
    say("\ncolumns of the stream: " + ", ".join(f"{f.name} ({f.type})" for f in found.schema))
    for i, row in enumerate(found.rows):
        grid = Table(title=f"row {i + 1}", title_justify="left", box=None, padding=(0, 2), show_header=False)
        for name, value in row.items():
            # A row that lacks a column is rejected for no value.
            if name != "value" or value or "rejected" not in row:
                grid.add_row(Text(name), Text(str(value)))
        out.print(grid)
    for reject in found.rejects[:_MOST_REJECTS]:
        say(f"rejected: {reject.partition} at {reject.position}: {reject.reason}")
    if len(found.rejects) > _MOST_REJECTS:
        say(f"... and {len(found.rejects) - _MOST_REJECTS:,} more")
    reasons = [
        *(str(row.get("rejected")) for row in found.rows),
        *(reject.reason for reject in found.rejects),
    ]
    for hint in _hints(reasons, found.schema):
        say(hint)
    for note in found.notes:
        say(note)
    for name, values in found.outputs.items():
        say(f"predicted {name}, before training: {values}")
    if not found.rows and found.rejects:
        say("every row that came is rejected; see why above, and mend the stream or the source")
        raise typer.Exit(1)
    if not found.rows:
        say(f"{path} is fine, but its stream has no rows yet")
    elif not found.outputs:
        say("every one of these rows is rejected; see why above, and mend the features or the source")
        raise typer.Exit(1)
    else:
        say(f"{path} is fine")


@app.command()
def train(
    path: JobFile,
    changes: Changes = None,
    every: Every = 5.0,
) -> None:
    """Train until the stream ends, going on from the newest checkpoint. Ctrl-C stops with a checkpoint."""
    job = load_job(path).replace(parse_changes(changes))
    with mistakes_shown(path), _hinted(job), watching(out, f"onstream train {path}", every_s=every) as view:
        summary = job.train(view)
    if summary.resumed_from is not None and not summary.learned and not summary.stopped:
        say(f"the stream has nothing new; to learn it anew, remove {Path(job.directory).resolve()}")
    _end(job, summary)


@app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_job(
    context: typer.Context,
    path: JobFile,
    changes: Changes = None,
    every: Every = 5.0,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What requests call the model; the name of its directory by default."
        ),
    ] = None,
) -> None:
    """Train a job and serve it while it learns. Takes the options of `onstream serve` too, such as --rest-port.

    If the job reads an embedded log, as in Job(Log("events.db"), ...), the server accepts examples for it, from the
    client or over Arrow Flight. Ctrl-C stops with a checkpoint.
    """
    job = load_job(path).replace(parse_changes(changes))
    watch = partial(_watching, f"onstream run {path}", every)
    with mistakes_shown(path), _hinted(job):
        summary = train_and_serve(job, name, context.args, watch)
    _end(job, summary)


for command in (serve, score, estimate, rollback, release, resume):
    app.command()(command)


def _end(job: Job, summary: Summary) -> None:
    """Say how a run ended, and exit as its signals ask."""
    progress = summary.progress
    say(
        f"{'stopped' if summary.stopped else 'the stream ended'}: {summary.learned:,} examples learned now, "
        f"{progress.examples:,} in all; "
        + (
            f"checkpoint {progress.version} in {job.directory} holds them"
            if progress.version
            else "nothing to keep"
        )
    )
    for name, label in progress.report.labels.items():
        if not label.examples:
            continue
        numbers = ", ".join(
            f"{key} {value:.4f}" for key, value in label.overall.items() if "bound" not in key
        )
        say(f"{name}, predicted before learning, over {label.examples:,} examples: {numbers}")
    if signal.SIGINT in summary.signals:
        raise typer.Exit(130)


def _watching(title: str, every_s: float, served: Callable[[], Status]) -> AbstractContextManager[Observer]:
    return watching(out, title, every_s=every_s, served=served)


def _hints(reasons: Iterable[str], schema: pa.Schema) -> list[str]:
    """Return which columns of a stream are called much like those that rows are rejected for the lack of."""
    missing = dict.fromkeys(name for reason in reasons for name in _MISSING.findall(reason))
    hints = []
    for name in missing:
        near = difflib.get_close_matches(name.lower(), [n.lower() for n in schema.names], n=2)
        if close := [n for n in schema.names if n.lower() in near]:
            hints.append(f"there is no column {name!r}; did you mean {' or '.join(map(repr, close))}?")
    return hints


@contextmanager
def _hinted(job: Job) -> Iterator[None]:
    """Add to an error of bad rows which columns may be meant."""
    try:
        yield
    except BadInputError as error:
        hints: list[str] = []
        # What is wrong with the stream as well is not what ended the job.
        with suppress(OnstreamError):
            hints = _hints([str(error)], job.stream.schema())
        raise BadInputError("; ".join([str(error), *hints])) from error


def _guessed(source: str) -> tuple[list[Declaration], list[str]]:
    """Return what the columns of a source may mean, and which tell the label: left out, if others are there."""
    batch = _first_batch(source)
    guessed = guess(batch.schema, pa.Table.from_batches([batch]))
    telling = leaking(guessed, batch)
    kept = [d for d in guessed if d.name not in telling]
    return (kept if any(isinstance(d, Feature) for d in kept) else guessed), telling


def _first_batch(source: str) -> pa.RecordBatch:
    for chunk in Files(source).read({}, max_rows=_SAMPLE_ROWS, stop=threading.Event()):
        if chunk.batch.num_rows:
            return chunk.batch
    raise JobError(f"{source} has no rows to guess features from")


def run() -> NoReturn:
    """Run the command line: exit code 0 if all went well, 1 if not, 2 if a job or an option is wrong."""
    try:
        app()
    except JobError as error:
        err.print(f"onstream: {error}", markup=False, soft_wrap=True)
        sys.exit(2)
    except OnstreamError as error:
        err.print(f"onstream: {error}", markup=False, soft_wrap=True)
        sys.exit(1)
    sys.exit(0)
