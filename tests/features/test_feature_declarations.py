import re

import pytest
from encoded import Rule

from onstream.errors import JobError
from onstream.features import EventTime, Features, Group, Id, IdList, Label, Number, Tensor, Weight


@pytest.mark.parametrize(
    ("declare", "text"),
    [
        (lambda: Id(""), "Id(''): the name must be a text that is not empty"),
        (lambda: Label(3), "Label(3): the name must be a text"),
        (lambda: Id("u", 0), "Id('u'): dim must be a whole number of at least 1, got 0"),
        (lambda: Id("u", True), "dim must be a whole number"),
        (lambda: Id("u", column=""), "column must be a name"),
        (lambda: Id("u", shared="u"), "shared must name another feature"),
        (lambda: IdList("u", pooling="max"), "pooling must be 'sum', 'mean' or 'pad', got 'max'"),
        (lambda: IdList("u", pooling="pad"), "pooling 'pad' needs a length"),
        (lambda: IdList("u", length=5), "a length goes with pooling='pad'"),
        (lambda: IdList("u", pooling="pad", length=0), "length must be a whole number"),
        (lambda: IdList("u", separator=""), "separator must not be empty"),
        (lambda: IdList("u", max_length=0), "max_length must be a whole number"),
        (lambda: Number("x", dim=8), "dim is for the rows of buckets; give bounds=[...] too"),
        (lambda: Number("x", expiry=Rule("ttl")), "expiry is for the rows of buckets"),
        (lambda: Number("x", bounds=[]), "bounds must be finite numbers that increase, got []"),
        (lambda: Number("x", bounds=[1, 1]), "bounds must be finite numbers that increase"),
        (lambda: Number("x", bounds=[1, float("inf")]), "bounds must be finite numbers that increase"),
        (lambda: Number("x", bounds=[1], log=True), "leave out log, standardize and fill"),
        (lambda: Number("x", bounds=[1], standardize=True), "leave out log, standardize and fill"),
        (lambda: Number("x", bounds=[1], fill=1.0), "leave out log, standardize and fill"),
        (lambda: Number("x", bounds=[1], dim=0), "dim must be a whole number"),
        (lambda: Number("x", fill=float("nan")), "fill must be finite"),
        (lambda: Tensor("x", ()), "shape must have at least one side"),
        (lambda: Tensor("x", (3, 0)), "shape must be a whole number of at least 1, got 0"),
        (lambda: Tensor("x", (3,), scale=0), "scale must be finite and not 0"),
        (lambda: Label("y", "ranking"), "task must be 'binary', 'real' or 'class', got 'ranking'"),
        (lambda: Label("y", "class"), "task 'class' needs the number of classes"),
        (lambda: Label("y", classes=3), "classes go with task 'class', not with 'binary'"),
        (lambda: Label("y", "class", classes=1), "classes must be from 2 to"),
        (lambda: Label("y", "real", threshold=1), "a threshold goes with task 'binary'"),
        (lambda: Label("y", threshold=float("nan")), "threshold must be finite"),
        (lambda: EventTime("t", "h"), "unit must be 's', 'ms', 'us' or 'ns', got 'h'"),
        (lambda: Weight(""), "the name must be a text"),
        (lambda: Group(""), "the name must be a text"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(declare, text):
    with pytest.raises(JobError, match=re.escape(text)):
        declare()


@pytest.mark.parametrize(
    ("declarations", "text"),
    [
        ([Id("u")], "there is no label to learn"),
        ([Label("y")], "there is no feature to learn from"),
        ([Id("u"), Number("u"), Label("y")], "'u' is declared twice, as Id and as Number"),
        ([Id("y"), Label("y")], "'y' is declared twice, as Id and as Label"),
        ([Id("u"), Label("y"), Weight("a"), Weight("b")], "there can be one Weight, got 'a', 'b'"),
        ([Id("u"), Label("y"), EventTime("a"), EventTime("b")], "there can be one EventTime"),
        ([Id("u"), Group("u"), Group("u"), Label("y")], "'u' is declared twice, as Group and as Group"),
        (["u", Label("y")], "'u' is no declaration of a feature"),
        ([Id("a", shared="b"), Label("y")], "'a' shares rows with 'b', which is no feature; known: 'a'"),
        ([Id("a", shared="b"), Number("b"), Label("y")], "'b', which is no Id or IdList"),
        ([Id("a", shared="b"), Id("b", shared="c"), Id("c"), Label("y")], "write shared='c'"),
        ([Id("a", 8, shared="b"), Id("b", 4), Label("y")], "which have dim=4, not 8; leave it out"),
        ([Id("a", shared="b", expiry=Rule("ttl")), Id("b"), Label("y")], "which have expiry=None"),
    ],
)
def test_what_does_not_go_together_is_refused_in_words(declarations, text):
    with pytest.raises(JobError, match=re.escape(text)):
        Features(declarations)


def test_an_unknown_default_is_refused():
    with pytest.raises(JobError, match="'optimiser' is no default of features"):
        Features([Id("u"), Label("y")], defaults={"optimiser": Rule("adam")})


def test_declarations_are_values():
    assert Id("u") == Id("u", 16)
    assert Number("x", bounds=[1, 2]) == Number("x", bounds=(1.0, 2.0))
    assert len({Tensor("t", [2, 3]), Tensor("t", (2, 3)), Id("t")}) == 2
