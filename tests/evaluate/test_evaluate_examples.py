"""The examples in the docstrings of this room run, and its public names are what it says."""

import doctest
import importlib
import pkgutil

import pytest

from onstream import evaluate

MODULES = [module.name for module in pkgutil.iter_modules(evaluate.__path__, "onstream.evaluate.")]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", evaluate.__all__)
def test_a_public_name_exists_and_is_documented(name):
    assert getattr(evaluate, name).__doc__
