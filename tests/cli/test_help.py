"""Help for every command, and what the package offers."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest
import typer.main

import onstream
from onstream.cli.app import app


def commands(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_of_a_command_tells_what_it_does_and_names_every_option(onstream, path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    command = COMMANDS[path]
    out = onstream.fine(*path, "--help")
    assert command.help
    assert command.help.split(".")[0] in " ".join(out.split())
    shown = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    options = [o for p in shown for o in p.opts]
    for option in [*options, "--help"]:
        assert option in out
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            assert parameter.help in out
    if hasattr(command, "commands"):
        assert all(name in out for name in command.commands)


def test_help_names_every_command(onstream):
    out = onstream.fine("--help")
    assert all(path[0] in out for path in COMMANDS)
    assert {path[0] for path in COMMANDS} >= {"init", "check", "train", "serve", "checkpoints"}
    assert {path[0] for path in COMMANDS} >= {"rollback", "release", "resume"}


# ------------------------------------------------------------------------------------------ the package


def test_public_names_are_sorted_and_all_there():
    assert sorted(onstream.__all__, key=lambda name: (not name.isupper(), name.islower(), name)) == (
        onstream.__all__
    )
    assert set(onstream.__all__) <= set(dir(onstream))
    with pytest.raises(AttributeError, match="has no attribute 'Jobs'"):
        onstream.Jobs  # noqa: B018


@pytest.mark.parametrize("name", onstream.__all__)
def test_a_public_name_is_documented_and_so_are_its_methods(name):
    found = getattr(onstream, name)
    assert inspect.getdoc(found)
    for method, value in vars(found).items() if inspect.isclass(found) else ():
        if not method.startswith("_") and callable(value):
            assert inspect.getdoc(getattr(found, method)), f"{name}.{method}"


MODULES = [
    module.name
    for module in pkgutil.walk_packages(onstream.__path__, "onstream.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert doctest.testmod(module).failed == 0


def test_commands_wait_for_no_library_that_only_some_of_them_need():
    told = "import sys, onstream.cli.app; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert not {"pandas", "tensorflow", "torch", "uvicorn"} & set(found.stdout.split())
