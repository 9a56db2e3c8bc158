"""The command that serves: its options, and what it says."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onstream.errors import JobError
from onstream.serving.beside import STATUS
from onstream.serving.saying import LoggedAside, Saying

if TYPE_CHECKING:
    from onstream.serving.processes import Processes
    from onstream.serving.server import Server
    from onstream.serving.settings import Member

__all__ = ["serve"]

_STANDARD_OUTPUT = 1
_STANDARD_ERROR = 2


def _port(text: str) -> Any:
    return typer.Option(
        min=-1, max=65_535, metavar="PORT", help=f"{text}; 0 takes a free one, -1 turns it off."
    )


def serve(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]DIR...",
            help="Model directories, each under the name of its folder, or under NAME.",
            show_default=False,
        ),
    ],
    tag: Annotated[
        str | None,
        typer.Option(metavar="TAG", help="Serve the version that this tag points to; the newest by default."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What requests call the model, if there is only one.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; other machines can reach 0.0.0.0, not 127.0.0.1.")
    ] = "127.0.0.1",
    rest_port: Annotated[int, _port("For REST, with /metrics")] = 8000,
    grpc_port: Annotated[int, _port("For gRPC")] = 8001,
    flight_port: Annotated[int, _port("For Arrow Flight")] = 8815,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Answer only who bears one of these tokens, one a line."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM certificate: every wire speaks TLS.")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM key of the certificate.")] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Answer only clients with a certificate of this PEM authority."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let other machines ask without token or certificate.")
    ] = False,
    max_staleness: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Not ready while the version was cut longer ago than this."),
    ] = None,
    canary: Annotated[
        str | None,
        typer.Option(metavar="TAG=SHARE", help="Let another version answer a share, as in candidate=0.1."),
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option(
            metavar="TAG=SHARE", help="Let another version score a share too, after it is answered."
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep every prediction in this embedded log; one model only."),
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="An embedded log to which clients may send examples by Flight."
        ),
    ] = None,
    access_log: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Append one JSON line a request; - writes to standard error."),
    ] = None,
    drain: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long requests may take to finish at the end.")
    ] = 10.0,
    max_request_rows: Annotated[
        int,
        typer.Option(min=1, metavar="ROWS", help="Refuse a request, or a batch over Flight, of more rows."),
    ] = 65_536,
    max_body_bytes: Annotated[
        int,
        typer.Option(
            min=1, max=2**31 - 1, metavar="BYTES", help="Refuse a request, or a batch, that is larger."
        ),
    ] = 32 << 20,
    max_rows: Annotated[int, typer.Option(help="Join requests up to this many rows.")] = 4096,
    max_delay: Annotated[
        float, typer.Option(metavar="SECONDS", help="Wait this long at most for requests to join.")
    ] = 0.001,
    queue_rows: Annotated[
        int, typer.Option(help="Refuse what would make more rows than this wait.")
    ] = 65_536,
    threads: Annotated[
        int | None,
        typer.Option(help="Workers of each model.", show_default="half of the processors, at most 4"),
    ] = None,
    torch_threads: Annotated[int, typer.Option(help="Threads of one operation of a network.")] = 1,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes that share the ports of REST and gRPC, each with a copy of the models; about as many as "
            "processors answer most.",
        ),
    ] = 1,
    pin: Annotated[
        bool | None,
        typer.Option(
            "--pin/--no-pin",
            help="Keep each of several processes to processors of its own, if there are as many.",
            show_default="yes, except beside a trainer",
        ),
    ] = None,
    retention_rows: Annotated[
        int | None, typer.Option(metavar="ROWS", help="Drop examples of a log once so many came after them.")
    ] = None,
    retention_bytes: Annotated[
        int | None, typer.Option(metavar="BYTES", help="Drop them once so much came after them.")
    ] = None,
    retention_s: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Drop them once they are so old.")
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Serve pickled models too: who writes the checkpoints may run any code here.",
        ),
    ] = False,
    beside: Annotated[
        bool,
        typer.Option(
            "--beside", hidden=True, help="Tell a parent process the numbers, and end when it does."
        ),
    ] = False,
    member: Annotated[
        str | None,
        typer.Option(metavar="NUMBER:FOLDER", hidden=True, help="Be one of several that share ports."),
    ] = None,
) -> None:
    """Serve the newest version of a model, and follow it as it learns. Ctrl-C or SIGTERM finishes what was begun.

    It answers the Open Inference Protocol (KServe v2) over REST and gRPC, and Arrow Flight. A directory that has no
    checkpoint yet is waited for.
    """
    directories = _named(models, name)
    if record is not None and len(directories) > 1:
        raise JobError("--record keeps the predictions of one model; serve one, or leave it out")
    if processes > 1:
        _serve_in_processes(context, directories, processes)
        return
    # Loaded only here: others need neither PyTorch nor the libraries of the wires.
    from onstream.serving.access import Access
    from onstream.serving.oip.limits import Limits
    from onstream.serving.server import Addresses, Server
    from onstream.serving.settings import ModelSettings, ServerSettings, parse_share
    from onstream.streams import Log

    paths = _pairs(log or [], "--log")
    retention = {
        "retention_rows": retention_rows,
        "retention_bytes": retention_bytes,
        "retention_s": retention_s,
    }
    logs = {log_name: Log(path, **retention) for log_name, path in paths.items()}  # type: ignore[arg-type]
    specs = {
        model: ModelSettings(
            directory=directory,
            tag=tag,
            canary=None if canary is None else parse_share(canary),
            shadow=None if shadow is None else parse_share(shadow),
            max_staleness_s=max_staleness,
            max_rows=max_rows,
            max_delay_s=max_delay,
            max_queue_rows=queue_rows,
            threads=threads,
            record=record,
            # Examples go to the model of their log's name.
            examples=logs.get(model),
            allow_pickle=allow_pickle,
        )
        for model, directory in directories.items()
    }
    settings = ServerSettings(
        host=host,
        rest_port=None if rest_port < 0 else rest_port,
        grpc_port=None if grpc_port < 0 else grpc_port,
        flight_port=None if flight_port < 0 else flight_port,
        drain_s=drain,
        access_log=access_log,
        torch_threads=torch_threads,
        member=None if member is None else _member(member),
    )
    access = Access(
        tokens=() if token_file is None else _tokens(token_file),
        certificate=certificate,
        key=key,
        client_ca=client_ca,
        insecure=insecure,
    )

    def listening(addresses: Addresses) -> None:
        wires = {"REST": addresses.rest, "gRPC": addresses.grpc, "Flight": addresses.flight}
        out.say(
            "listening: " + ", ".join(f"{wire} {where}" for wire, where in wires.items() if where is not None)
        )
        # Beside a job, that makes it at once.
        if not beside:
            _tell_missing(directories.values(), out)

    limits = Limits(max_rows=max_request_rows, max_body_bytes=max_body_bytes)
    server = Server(specs, settings, access, logs=logs, limits=limits)
    if beside:
        threading.Thread(target=_stop_with_parent, args=(server,), daemon=True).start()
    # Neither the wires nor the models wait for who reads what is said of them.
    with closing(Saying(_STANDARD_OUTPUT)) as out, closing(Saying(_STANDARD_ERROR)) as err:
        logging.basicConfig(
            format="%(asctime)s %(levelname)s %(name)s: %(message)s", handlers=[LoggedAside(err)]
        )
        try:
            drained = server.run(listening, out.say, partial(_tell_status, out) if beside else None)
        except JobError as error:
            raise JobError(_with_option(str(error))) from error
        finally:
            for kept in logs.values():
                kept.close()
        _tell_end(out, drain, drained=drained)


def _serve_in_processes(context: typer.Context, directories: Mapping[str, Path], processes: int) -> None:
    """Serve with the same options in several processes."""
    from onstream.serving.processes import Processes
    from onstream.serving.settings import workers_of

    options = context.params
    ports = {"REST": options["rest_port"], "gRPC": options["grpc_port"], "Flight": options["flight_port"]}
    drain = options["drain"]
    beside = options["beside"]

    def command(one: Member, found: Mapping[str, int]) -> list[str]:
        changed = {
            "rest_port": found.get("REST", -1),
            "grpc_port": found.get("gRPC", -1),
            "flight_port": found.get("Flight", -1) if one.number == 1 else -1,
            "threads": workers_of(processes) if options["threads"] is None else options["threads"],
            "processes": 1,
            "beside": True,
            "member": f"{one.number}:{one.folder}",
        }
        # The folder it is started in is no place to import from, as it is none for the command.
        return [sys.executable, "-P", "-m", "onstream", "serve", *_texts(context, {**options, **changed})]

    servers = Processes(
        command,
        processes,
        host=options["host"],
        ports={wire: port for wire, port in ports.items() if port >= 0},
        drain_s=drain,
        # A trainer on the same processors moves from one to another, and servers have to make room.
        pin=not beside if options["pin"] is None else options["pin"],
    )
    if beside:
        threading.Thread(target=_stop_with_parent, args=(servers,), daemon=True).start()
    with closing(Saying(_STANDARD_OUTPUT)) as out:
        if not beside:
            _tell_missing(directories.values(), out)
        try:
            drained = servers.run(out.say, partial(_tell_status, out) if beside else None)
        except JobError as error:
            raise JobError(_with_option(str(error))) from error
        _tell_end(out, drain, drained=drained)


def _texts(context: typer.Context, options: Mapping[str, Any]) -> list[str]:
    """Return the arguments that a command with these options would have had."""
    texts: list[str] = []
    last: list[str] = ["--"]
    for parameter in context.command.params:
        value = options.get(parameter.name or "")
        values = value if isinstance(value, list | tuple) else [value]
        if parameter.param_type_name == "argument":
            last += map(str, values)
        elif value is True:
            texts.append(parameter.opts[0])
        elif value is False and parameter.secondary_opts:
            texts.append(parameter.secondary_opts[0])
        elif value is not None and value is not False:
            texts += [f"{parameter.opts[0]}={one}" for one in values]
    return [*texts, *last]


def _member(text: str) -> Member:
    from onstream.serving.settings import Member

    number, _, folder = text.partition(":")
    return Member(Path(folder), int(number))


def _tell_missing(directories: Iterable[Path], out: Saying) -> None:
    for directory in directories:
        if not directory.exists():
            out.say(f"there is no directory {str(directory)!r} yet; it is waited for, until a job makes it")


def _tell_end(out: Saying, drain: float, *, drained: bool) -> None:
    if not drained:
        out.say(f"stopped; not all requests were finished within {drain:g} s")
        raise typer.Exit(1)
    out.say("stopped; all requests that were taken were answered")


def _with_option(text: str) -> str:
    """Return what keeps a server from listening, with the option that helps."""
    for wire, option in (("REST", "--rest-port"), ("gRPC", "--grpc-port"), ("Flight", "--flight-port")):
        if text.startswith(f"cannot serve {wire} at "):
            return f"{text}; {option} takes another port, 0 a free one"
    return text


def _stop_with_parent(server: Server | Processes) -> None:
    # The parent holds the other end, and says nothing: it ends when the parent does, however that comes about.
    while os.read(sys.stdin.fileno(), 1):
        pass
    server.stop()


def _tell_status(out: Saying, numbers: dict[str, float]) -> None:
    out.status(STATUS + json.dumps(numbers))


def _named(models: Sequence[str], name: str | None) -> dict[str, Path]:
    """Return the model directories by name."""
    if name is not None:
        if len(models) > 1:
            raise JobError("--name is for one model; name several as in clicks=models/clicks")
        return {name: Path(models[0])}
    found: dict[str, Path] = {}
    for model in models:
        own, equals, path = model.partition("=")
        # A folder may have "=" in its name.
        if not equals or Path(model).exists():
            own, path = Path(model).resolve().name, model
        if not own or not path:
            raise JobError(f"a model is a directory, or NAME=DIR, got {model!r}")
        if own in found:
            raise JobError(f"two models are called {own!r}; name them, as in {own}2={path}")
        found[own] = Path(path)
    return found


def _pairs(texts: Sequence[str], option: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not name or not path or name in found:
            raise JobError(f"{option} takes NAME=FILE, each name once, got {text!r}")
        found[name] = Path(path)
    return found


def _tokens(path: Path) -> list[str]:
    try:
        tokens = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"the tokens of {str(path)!r} cannot be read: {error}") from error
    if not tokens:
        raise JobError(f"{str(path)!r} holds no token")
    return tokens
