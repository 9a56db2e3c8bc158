"""onstream as estimators of other libraries: river's `learn_one`, scikit-learn's `partial_fit`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onstream.estimators.river import RiverClassifier, RiverRegressor
    from onstream.estimators.sklearn import SklearnClassifier, SklearnRegressor

__all__ = ["RiverClassifier", "RiverRegressor", "SklearnClassifier", "SklearnRegressor"]


# Each library is loaded when one of its estimators is asked for.
def __getattr__(name: str) -> Any:
    if name in __all__:
        room = "river" if name.startswith("River") else "sklearn"
        globals()[name] = found = getattr(import_module(f"onstream.estimators.{room}"), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
