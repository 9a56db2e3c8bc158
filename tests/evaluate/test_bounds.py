"""Bounds as people write them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onstream.contracts import Label
from onstream.errors import JobError
from onstream.evaluate import Bound, Meter, metric_names, parse_bounds, resolve_bounds
from onstream.evaluate.meter import METRIC_NAMES

names = st.from_regex(r"[a-zA-Z_][\w./\-\[\]]{0,12}", fullmatch=True)
numbers = st.floats(allow_nan=False, allow_infinity=False)
LABELS = (Label("click", "binary"), Label("buy", "binary"), Label("price", "real"), Label("kind", "class", 3))


@st.composite
def bounds(draw):
    low, high = sorted(draw(st.lists(numbers, min_size=2, max_size=2)))
    strict = st.booleans() if low < high else st.just(False)
    kept = draw(st.sampled_from(["low", "high", "both"]))
    return Bound(
        draw(names),
        low if kept != "high" else -math.inf,
        high if kept != "low" else math.inf,
        above=draw(strict) if kept != "high" else False,
        below=draw(strict) if kept != "low" else False,
    )


@given(st.lists(bounds(), min_size=1, max_size=4))
def test_bounds_read_back_as_they_are_written(written):
    text = ", ".join(map(str, written))
    assert list(parse_bounds(text)) == written
    assert list(parse_bounds(text.replace(" ", ""))) == written


@given(bounds(), numbers | st.just(math.nan) | st.just(math.inf))
def test_a_bound_holds_as_python_compares(bound, value):
    low = value > bound.low if bound.above else value >= bound.low
    high = value < bound.high if bound.below else value <= bound.high
    assert bound.holds(value) == (low and high)


@given(st.text(alphabet="ab1.e+-<>=, ", max_size=20))
def test_any_text_is_bounds_or_refused(text):
    try:
        parsed = parse_bounds(text)
    except JobError as error:
        assert (
            repr(text)[1:-1] in str(error) or "no number is within" in str(error) or "too large" in str(error)
        )
    else:
        assert len(parsed) == text.count(",") + 1


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("auc >= 0.7", Bound("auc", low=0.7)),
        ("0.7<=auc", Bound("auc", low=0.7)),
        ("auc > .7", Bound("auc", low=0.7, above=True)),
        ("1e-1 > log_loss", Bound("log_loss", high=0.1, below=True)),
        ("log_loss <= +5.", Bound("log_loss", high=5)),
        ("-1 < r2 <= 1", Bound("r2", -1, 1, above=True)),
        ("1 <= click/gauc/user <= 1", Bound("click/gauc/user", 1, 1)),
    ],
)
def test_bounds_are_written_as_people_do(text, bound):
    assert parse_bounds(text) == (bound,)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ",",
            "auc",
            "auc >= ",
            "auc = 0.7",
            "auc == 0.7",
            "auc >= 0.7,",
            ">= 0.7",
            "0.7 <= 0.8",
            "auc >= nan",
        ),
        *(
            "auc >= 0.7 and ne < 1",
            "1 >= auc >= 0",
            "auc >= 1e999",
            "0.9 <= auc <= 0.1",
            "1 < auc <= 1",
            "auc>=_1",
        ),
    ],
)
def test_what_is_no_bound_is_refused(text):
    with pytest.raises(JobError):
        parse_bounds(text)


def test_a_name_means_the_windows_of_every_label_that_has_it_unless_it_says_which():
    found = metric_names(LABELS, ("user",))
    assert found["auc"] == ["click/window/auc", "buy/window/auc"]
    assert found["log_loss"] == ["click/window/log_loss", "buy/window/log_loss", "kind/window/log_loss"]
    assert found["price/rmse"] == ["price/window/rmse"]
    assert found["gauc/user"] == ["click/window/gauc/user", "buy/window/gauc/user"]
    assert found["buy/overall/ne"] == ["buy/overall/ne"]


def test_every_name_is_that_of_a_number_that_is_reported():
    reported = Meter(LABELS, groups=("user",)).report().flat()
    meant = {full for numbers in metric_names(LABELS, ("user",)).values() for full in numbers}
    assert meant <= set(reported)
    assert len(meant) == 2 * sum(len(METRIC_NAMES[label.task]) for label in LABELS) + 2


@pytest.mark.parametrize("name", ["auk", "click/rmse", "clik/auc", "gauc/item", "window/auc"])
def test_a_name_that_there_is_not_is_refused_with_those_there_are(name):
    with pytest.raises(JobError, match=rf"gate: there is no number '{name}'; .*there are: auc, "):
        resolve_bounds(f"auc > 0, {name} >= 0.7", metric_names(LABELS), "gate")


def test_a_name_that_is_close_is_suggested():
    with pytest.raises(JobError, match="did you mean 'calibration'"):
        resolve_bounds("callibration >= 0.7", metric_names(LABELS), "gate")
