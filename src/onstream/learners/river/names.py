"""Which classes and functions the state of a river model may name: those of river that only compute, and a few more."""

from __future__ import annotations

import collections
import copy
import datetime
import decimal
import math
import operator
import statistics
import types
import unicodedata
from importlib import import_module
from typing import Any

import numpy as np

__all__ = ["NAMES", "is_river", "name_of", "resolve"]

# The rest of river reads files, calls other services, wraps other libraries, or is for tests.
_PACKAGES = frozenset(
    (
        *("_river_rust", "active", "anomaly", "bandit", "base", "cluster", "compose", "conf", "covariance"),
        *(
            "drift",
            "dummy",
            "ensemble",
            "facto",
            "feature_extraction",
            "feature_selection",
            "forest",
            "imblearn",
        ),
        *("linear_model", "metrics", "misc", "model_selection", "multiclass", "multioutput", "naive_bayes"),
        *("neighbors", "optim", "preprocessing", "proba", "reco", "rules", "sketch", "stats", "time_series"),
        *("tree", "utils"),
    )
)

_OTHERS: tuple[Any, ...] = (
    *(bool, bytes, complex, dict, float, frozenset, int, list, object, set, str, tuple),
    *(abs, all, any, iter, len, max, min, range, round, slice, sum),
    *(collections.Counter, collections.OrderedDict, collections.defaultdict, collections.deque),
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
    *(math.exp, math.log, math.log1p, math.log2, math.log10, math.sqrt, math.tanh),
    *(operator.add, operator.itemgetter, operator.mul, operator.sub, operator.truediv),
    *(str.casefold, str.lower, str.split, str.strip, str.upper, unicodedata.normalize),
    *(copy.copy, copy.deepcopy, decimal.Decimal, statistics.NormalDist),
    *(np.array, np.asarray, np.eye, np.exp, np.log, np.log1p, np.ones, np.sqrt, np.zeros),
    *(np.float32, np.float64, np.int32, np.int64, np.ndarray),
    *(np.random.MT19937, np.random.PCG64, np.random.SeedSequence),
)


def name_of(thing: Any) -> str:
    """Return where a class or function is found, as "module:name"; texts that `resolve` refuses are possible."""
    owner = getattr(thing, "__objclass__", thing)
    return f"{owner.__module__}:{thing.__qualname__}"


NAMES: dict[str, Any] = {name_of(thing): thing for thing in _OTHERS}
"""What may be named beside river's own, by name."""


def is_river(name: str) -> bool:
    """Tell whether a name is of a part of river that may be named."""
    parts = name.partition(":")[0].split(".")
    return parts[0] == "river" and len(parts) > 1 and parts[1] in _PACKAGES and "datasets" not in parts


def resolve(name: str) -> Any:
    """Return the class or function of a name.

    Raises
    ------
    LookupError
        If the name may not be used, or there is no such class or function.

    Notes
    -----
    Modules are imported, of river alone. What a module of river has imported from elsewhere is not found: a name
    counts only where its thing was defined.
    """
    if name in NAMES:
        return NAMES[name]
    module, _, path = name.partition(":")
    if not is_river(name) or not path or any(part.startswith("__") for part in path.split(".")):
        raise LookupError(f"{name!r} is not among what the state of a river model may name")
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"this river has no {name!r}: {error}") from error
    named = isinstance(found, type | types.FunctionType | types.BuiltinFunctionType)
    if not named or name_of(found) != name:
        raise LookupError(f"{name!r} is not among what the state of a river model may name")
    return found
