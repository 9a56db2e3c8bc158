import doctest
import importlib
import pkgutil

import pytest

from onstream import features

MODULES = [f"onstream.features.{module.name}" for module in pkgutil.iter_modules(features.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_public_name_is_there_and_has_a_docstring():
    for name in features.__all__:
        assert getattr(features, name).__doc__ or name in ("Declaration", "Feature")
