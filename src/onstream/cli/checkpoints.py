"""The commands that look at and tend the checkpoints of a model directory."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.pretty import pretty_repr
from rich.table import Table
from rich.text import Text

from onstream.checkpoints import CheckpointLog, LocalStore, Manifest
from onstream.cli.console import counted, out, say
from onstream.cli.terminal import size_text
from onstream.errors import JobError, OnstreamError
from onstream.trainer import Settings, read_pause
from onstream.trainer import resume as resume_job

__all__ = ["checkpoints", "release", "resume", "rollback"]

checkpoints = typer.Typer(help="Look at and tend the checkpoints of a model directory.", no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(help="The model directory.", show_default=False)]
Which = Annotated[str | None, typer.Argument(help="A version or tag; the newest by default.")]
TagName = Annotated[str, typer.Option("--tag", metavar="NAME", help="The tag that servers follow.")]


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


def release(directory: Directory, tag: TagName = "production") -> None:
    """Let a tag that was rolled back or set by hand follow training again."""
    found = _log(directory).release(tag)
    say(f"{tag} is version {found.version} until the job publishes the next")


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
    say(
        f"version {manifest.version}, "
        + ("the first" if manifest.parent is None else f"grown from {manifest.parent}")
    )
    say(pretty_repr({"positions": manifest.positions, "facts": manifest.facts}, max_width=out.width))
    for name, chain in manifest.tables.items():
        shape = chain.shape
        floats = f"rows of {counted(shape.dim, 'float')} and {shape.width} of their optimizer"
        say(f"table {name}: {floats}, {shape.partitions} partitions")
        for segment in chain.segments:
            content = f"{counted(segment.rows, 'row')}, {counted(segment.deleted, 'deletion')}"
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
    say(f"version {manifest.version}: {counted(merged, 'table')} merged, {_sizes(manifest)[1]} in all")


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
