"""Programs beside the package: what they import of it is there. Their peers are not installed for tests."""

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = sorted(
    path for folder in ("bench", "examples", "scripts") for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_program_imports_of_onstream_is_there(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "onstream":
            assert [alias.name for alias in node.names if not _is_there(node.module, alias.name)] == []


def _is_there(module, name):
    return hasattr(import_module(module), name) or find_spec(f"{module}.{name}") is not None
