import json

import pytest
from encoded import Rule, encode, rows

from onstream.errors import JobError
from onstream.features import EventTime, Features, Group, Id, IdList, Label, Number, Tensor, Weight

DEFAULTS = {"optimizer": Rule("adagrad", 0.05), "initial": Rule("uniform"), "admission": None}


def tables(*declarations, defaults=DEFAULTS):
    features = Features([*declarations, Label("y")], defaults=defaults)
    return {table.name: table.features for table in features.layout.tables}


def test_features_of_one_width_and_policy_live_in_one_table():
    assert tables(Id("a"), Id("b", 8), IdList("c"), Number("n"), Number("d", bounds=[1], dim=8)) == {
        "d16-adagrad": ("a", "c"),
        "d8-adagrad": ("b", "d"),
    }


def test_a_policy_that_equals_the_default_is_the_default():
    assert tables(Id("a"), Id("b", optimizer=Rule("adagrad", 0.05))) == {"d16-adagrad": ("a", "b")}


def test_a_table_is_named_by_what_sets_it_apart():
    assert tables(
        Id("a"),
        Id("b", optimizer=Rule("adam")),
        Id("c", admission=Rule("seen", 3)),
        Id("d", expiry=Rule("ttl"), initial=Rule("zero")),
        Id("e", optimizer=Rule("adagrad", 0.01)),
    ) == {
        "d16-adagrad": ("a",),
        "d16-adam": ("b",),
        "d16-adagrad-seen": ("c",),
        "d16-adagrad-zero-ttl": ("d",),
        "d16-adagrad-2": ("e",),
    }
    assert tables(Id("a"), defaults={}) == {"d16": ("a",)}


def test_a_feature_that_shares_is_ruled_as_the_one_it_shares_with():
    item = Id("item", 32, optimizer=Rule("adam"))
    features = Features([IdList("history", shared="item"), item, Label("y")], defaults=DEFAULTS)
    (table,) = features.layout.tables
    assert (table.name, table.dim, table.features) == ("d32-adam", 32, ("history", "item"))
    assert table.policy == {
        "optimizer": Rule("adam"),
        "initial": Rule("uniform"),
        "admission": None,
        "expiry": None,
    }
    assert [field.dim for field in features.layout.fields] == [32, 32]


def test_fields_stand_in_the_order_of_the_declarations():
    features = Features(
        [
            Number("x"),
            Id("a", 4),
            Tensor("t", (2, 3)),
            Number("b", bounds=[0], dim=4),
            IdList("l", 4, pooling="pad", length=7),
            Number("z"),
            Label("y"),
        ]
    )
    got = [(f.name, f.kind, f.table, f.column, f.dim, f.shape, f.length) for f in features.layout.fields]
    assert got == [
        ("x", "number", "", 0, 1, (), 0),
        ("a", "id", "d4", 0, 4, (), 0),
        ("t", "tensor", "", 0, 1, (2, 3), 0),
        ("b", "id", "d4", 1, 4, (), 0),
        ("l", "list", "d4", 0, 4, (), 7),
        ("z", "number", "", 1, 1, (), 0),
    ]


def test_columns_are_those_that_are_read():
    features = Features(
        [Id("a", column="c"), Number("n", column="c"), Group("g"), EventTime("t"), Weight("w"), Label("y")]
    )
    assert features.columns == ("c", "g", "t", "w", "y")
    assert (features.groups, features.timed, features.layout.weighted) == (("g",), True, True)
    plain = Features([Id("a"), Label("y")])
    assert (plain.groups, plain.timed, plain.layout.weighted) == ((), False, False)


def test_a_description_says_what_is_not_at_its_default():
    features = Features([Id("u"), Label("y")], defaults=DEFAULTS)
    assert features.describe()["declarations"] == [
        {"kind": "Id", "name": "u", "dim": 16},
        {"kind": "Label", "name": "y"},
    ]


def test_a_description_from_elsewhere_is_refused_in_words():
    with pytest.raises(JobError, match="'Cross' is no kind of feature; there are Id, IdList"):
        Features.restore({"declarations": [{"kind": "Cross"}], "defaults": {}})
    with pytest.raises(JobError, match="described by another version of onstream"):
        Features.restore({"declarations": [{"kind": "Id", "name": "u", "depth": 3}], "defaults": {}})


def test_features_come_back_from_their_description():
    features = Features(
        [
            Id("item", 8, optimizer=Rule("adam", 0.1), column="i"),
            IdList("history", shared="item", pooling="pad", length=3, separator="|", max_length=9),
            Number("price", log=True, standardize=True, fill=-1.0),
            Number("age", bounds=[18, 65], dim=4, expiry=Rule("ttl")),
            Tensor("image", (1, 2), scale=0.5),
            Group("i"),
            Weight("w"),
            EventTime("t", "ms"),
            Label("y", required=False),
            Label("stars", "class", classes=6),
        ],
        defaults=DEFAULTS,
    )
    described = json.loads(json.dumps(features.describe()))
    restored = Features.restore(described)
    assert restored.describe() == described
    assert restored.layout.fields == features.layout.fields
    assert restored.layout.labels == features.layout.labels
    assert [(t.name, t.dim, t.features) for t in restored.layout.tables] == [
        (t.name, t.dim, t.features) for t in features.layout.tables
    ]
    row = rows(i=[1], history=["a|b"], price=[2.0], age=[30], image=[[3, 4]], w=[1], t=[5000], stars=[5])
    one, other = encode(features, row), encode(restored, row)
    assert {name: keys.tolist() for name, keys in one.keys.items()} == {
        name: keys.tolist() for name, keys in other.keys.items()
    }
    assert one.numbers.tolist() == other.numbers.tolist()
    assert one.tensors["image"].tolist() == other.tensors["image"].tolist() == [[[1.5, 2.0]]]
    assert (one.now, other.now) == (5, 5)
