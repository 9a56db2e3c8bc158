"""The command line; every command is one thin function over the rooms below."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import pyarrow as pa
import typer
from rich.console import Console
from rich.pretty import pretty_repr
from rich.table import Table
from rich.text import Text

from onstream.checkpoints import CheckpointLog, LocalStore, Manifest
from onstream.cli.choice import estimate
from onstream.cli.evolution import es
from onstream.cli.run import train_and_serve
from onstream.cli.scoring import score
from onstream.cli.serving import serve
from onstream.cli.templates import TEMPLATES, hidden_by, job_text, template_of, write_sample
from onstream.cli.terminal import size_text, watching
from onstream.errors import JobError, OnstreamError
from onstream.features import Declaration, Feature, guess, leaking
from onstream.job import Job, load_job
from onstream.serving.beside import Status
from onstream.streams import Files
from onstream.trainer import Observer, Settings, Summary, read_pause
from onstream.trainer import resume as resume_job

__all__ = ["app", "run"]

_MOST_REJECTS = 10

app = typer.Typer(
    help="Train a model on a live stream and serve it while it learns.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
checkpoints = typer.Typer(help="Look at and tend the checkpoints of a model directory.", no_args_is_help=True)
app.add_typer(checkpoints, name="checkpoints")
app.add_typer(es, name="es")

JobFile = Annotated[Path, typer.Argument(help="The job file.", show_default=False)]
Directory = Annotated[Path, typer.Argument(help="The model directory.", show_default=False)]
Which = Annotated[str | None, typer.Argument(help="A version or tag; the newest by default.")]
TagName = Annotated[str, typer.Option("--tag", metavar="NAME", help="The tag that servers follow.")]
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
    """Print the resolved job, the first rows as the model sees them, and what it predicts untrained."""
    job = load_job(path).replace(parse_changes(changes))
    found = job.check(rows)
    say(pretty_repr(job.describe(), max_width=out.width))
    say("\ncolumns of the stream: " + ", ".join(f"{f.name} ({f.type})" for f in found.schema))
    for i, row in enumerate(found.rows):
        grid = Table(title=f"row {i + 1}", title_justify="left", box=None, padding=(0, 2), show_header=False)
        for name, value in row.items():
            grid.add_row(Text(name), Text(str(value)))
        out.print(grid)
    for reject in found.rejects[:_MOST_REJECTS]:
        say(f"rejected: {reject.partition} at {reject.position}: {reject.reason}")
    if len(found.rejects) > _MOST_REJECTS:
        say(f"... and {len(found.rejects) - _MOST_REJECTS:,} more")
    for name, values in found.outputs.items():
        say(f"predicted {name}, untrained: {values}")
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
    with watching(out, f"onstream train {path}", every_s=every) as view:
        summary = job.train(view)
    if summary.resumed_from is not None and not summary.learned and not summary.stopped:
        say(f"the stream has nothing new; to learn it anew, remove {Path(job.directory).resolve()}")
    _end(job, summary)


app.command()(serve)
app.command()(score)
app.command()(estimate)


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
    summary = train_and_serve(job, name, context.args, watch)
    _end(job, summary)


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
        numbers = ", ".join(
            f"{key} {value:.4f}" for key, value in label.overall.items() if "bound" not in key
        )
        say(f"{name}, predicted before learning, over {label.examples:,} examples: {numbers}")
    if signal.SIGINT in summary.signals:
        raise typer.Exit(130)


def _watching(title: str, every_s: float, served: Callable[[], Status]) -> AbstractContextManager[Observer]:
    return watching(out, title, every_s=every_s, served=served)


@app.command()
def rollback(
    directory: Directory,
    tag: TagName = "production",
    to: Annotated[
        str | None,
        typer.Option(metavar="WHICH", help="A version or another tag; by default where the tag was before."),
    ] = None,
) -> None:
    """Serve an older version again, at once, while training goes on. The tag is held there until `release`."""
    log = _log(directory)
    found = log.roll_back_tag(tag, to)
    say(
        f"{tag} is version {found.version} and held there; `onstream release {directory} --tag {tag}` lets it "
        f"follow training again"
    )


@app.command()
def release(directory: Directory, tag: TagName = "production") -> None:
    """Let a tag that was rolled back or set by hand follow training again."""
    found = _log(directory).release(tag)
    say(f"{tag} is version {found.version} until the job publishes the next")


@app.command()
def resume(directory: Directory) -> None:
    """Let a job that its guard has paused go on learning."""
    _log(directory)
    pause = resume_job(directory)
    say(f"going on after {pause.examples:,} examples; it was paused, for: {pause.reason}")


@checkpoints.command("list")
def list_checkpoints(directory: Directory) -> None:
    """List the versions, oldest first, with their tags."""
    log = _log(directory)
    tags: dict[int, list[str]] = {}
    for name, version in log.tags().items():
        tags.setdefault(version, []).append(name)
    table = Table(box=None, padding=(0, 2))
    for title in ("version", "examples", "rows written", "size", "tags"):
        table.add_column(title, justify="left" if title == "tags" else "right")
    for version in log.versions():
        try:
            manifest = log.read(version)
        except OnstreamError as error:
            table.add_row(str(version), "damaged", "", "", Text(str(error)))
            continue
        table.add_row(str(version), _examples(manifest), *_sizes(manifest), " ".join(tags.get(version, [])))
    out.print(table)
    if (pause := read_pause(directory)) is not None:
        say(f"paused: {pause.reason}")


@checkpoints.command("show")
def show_checkpoint(directory: Directory, which: Which = None) -> None:
    """Print what a version holds."""
    log = _log(directory)
    manifest = log.read(log.resolve(which))
    say(f"version {manifest.version}, grown from {manifest.parent}")
    say(pretty_repr({"positions": manifest.positions, "facts": manifest.facts}, max_width=out.width))
    for name, chain in manifest.tables.items():
        say(f"table {name}: {chain.shape}")
        for segment in chain.segments:
            content = f"{segment.rows:,} rows, {segment.deleted:,} deletions"
            say(f"  {segment.name}  {content}, {size_text(segment.size_bytes)}")
    for name, file in manifest.states.items():
        say(f"state {name}: {file.name}  {size_text(file.size_bytes)}")


@checkpoints.command("tags")
def list_tags(directory: Directory) -> None:
    """List the tags, and where each pointed before, newest first, with the times in UTC."""
    log = _log(directory)
    there = set(log.versions())
    table = Table(box=None, padding=(0, 2))
    for title in ("tag", "version", "since", "", ""):
        table.add_column(title, justify="right" if title == "version" else "left")
    for name, found in log.tag_details().items():
        table.add_row(name, str(found.version), _time(found.since), "held" if found.held else "", "")
        for move in found.before:
            gone = "" if move.version in there else "gone"
            table.add_row("", str(move.version), _time(move.since), "", gone)
    out.print(table)


@checkpoints.command()
def tag(
    directory: Directory,
    name: Annotated[str, typer.Argument(help="Such as production.", show_default=False)],
    which: Which = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag away.")] = False,
) -> None:
    """Point a tag to a version and hold it there; both stay until the tag is moved, released or removed."""
    log = _log(directory)
    if remove:
        log.untag(name)
        say(f"{name} is no tag any more")
        return
    version = log.resolve(which)
    log.tag(name, version)
    say(f"{name} is version {version}")


@checkpoints.command("rollback")
def roll_back_training(
    directory: Directory, which: Annotated[str, typer.Argument(help="A version or tag.")]
) -> None:
    """Make an older version the newest again, so that training goes on from there; stop the job first."""
    with _kept(directory) as log:
        version = log.resolve(which)
        manifest = log.rollback(version)
    say(f"version {manifest.version} is version {version} again; training goes on from it")


@checkpoints.command()
def verify(directory: Directory, which: Which = None) -> None:
    """Check every byte of a version, or of all; exit with 1 if something is wrong."""
    log = _log(directory)
    problems = log.verify(None if which is None else log.resolve(which))
    for problem in problems:
        say(problem)
    if problems:
        raise typer.Exit(1)
    say(f"{'all versions are' if which is None else f'version {which} is'} whole")


@checkpoints.command()
def compact(directory: Directory) -> None:
    """Merge the segments of every table into one, as a new version with the same content."""
    with _kept(directory) as log:
        manifest = log.restore()
        if manifest is None:
            raise JobError(f"{directory} holds no checkpoint")
        merged = log.compact(manifest, full=True)
        if merged == 0:
            say("there is nothing to merge")
            return
        manifest = log.recommit()
    say(f"version {manifest.version}: {merged} tables merged, {_sizes(manifest)[1]} in all")


# ------------------------------------------------------------------------------------------- helpers

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print text as it is."""
    out.print(text, markup=False, soft_wrap=True)


def parse_changes(changes: list[str] | None) -> dict[str, Any]:
    """Return ``NAME=VALUE`` texts as a mapping."""
    parsed = {}
    for change in changes or []:
        name, equals, value = change.partition("=")
        if not equals or not name:
            raise JobError(f"--set takes NAME=VALUE, such as --set batch_size=4096, got {change!r}")
        parsed[name] = value
    return parsed


def _guessed(source: str) -> tuple[list[Declaration], list[str]]:
    """Return what the columns of a source may mean, and which tell the label: left out, if others are there."""
    files = Files(source)
    for chunk in files.read({}, max_rows=_SAMPLE_ROWS, stop=threading.Event()):
        if chunk.batch.num_rows:
            guessed = guess(chunk.batch.schema, pa.Table.from_batches([chunk.batch]))
            telling = leaking(guessed, chunk.batch)
            kept = [d for d in guessed if d.name not in telling]
            return (kept if any(isinstance(d, Feature) for d in kept) else guessed), telling
    raise JobError(f"{source} has no rows to guess features from")


def _log(directory: Path) -> CheckpointLog:
    if not directory.is_dir():
        raise JobError(f"there is no model directory {str(directory)!r}")
    if not (directory / "manifests").is_dir():
        raise JobError(f"{str(directory)!r} holds no checkpoints")
    return CheckpointLog(LocalStore(directory), report=say)


def _kept(directory: Path) -> CheckpointLog:
    """Return a log to write to, which keeps as many versions as the job of this directory does."""
    manifest = _log(directory).newest()
    settings = manifest.facts.get("job", {}).get("settings", {}) if manifest else {}
    return CheckpointLog(LocalStore(directory), keep=settings.get("keep", Settings.keep), report=say)


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def _examples(manifest: Manifest) -> str:
    examples = manifest.facts.get("examples")
    return f"{examples:,}" if isinstance(examples, int) else "-"


def _sizes(manifest: Manifest) -> tuple[str, str]:
    segments = [segment for chain in manifest.tables.values() for segment in chain.segments]
    rows = sum(segment.rows for segment in segments)
    size = sum(file.size_bytes for file in manifest.files())
    return f"{rows:,}", size_text(size)


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
