from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onstream.checkpoints import CheckpointLog, LocalStore, Snapshot
from onstream.checkpoints.files import put
from onstream.checkpoints.states import read_state, state_bytes
from onstream.contracts import State
from onstream.errors import DamagedError

dtypes = st.sampled_from(["?", "i1", "u1", "i2", "u2", "f2", "i4", "u4", "f4", "i8", "u8", "f8"]).map(
    np.dtype
)
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(min_size=1).filter(lambda name: name != "__metadata__"), arrays, max_size=4),
    st.dictionaries(st.text(), json_values, max_size=4),
)
def test_a_state_reads_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray], facts: dict[str, object]
) -> None:
    store = LocalStore(tmp_path_factory.getbasetemp() / "states")
    back = read_state(store, put(store, "s", [state_bytes("s", State(arrays, facts))]))
    assert back.facts == facts
    assert set(back.arrays) == set(arrays)
    for name, array in arrays.items():
        assert (back.arrays[name].dtype, back.arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(back.arrays[name], array)
        assert back.arrays[name].flags.writeable


def test_order_and_strides_do_not_change_a_state(tmp_path: Path) -> None:
    a = np.arange(6.0).reshape(2, 3)
    same = state_bytes("s", State({"a": a, "b": a}))
    assert state_bytes("s", State({"b": a, "a": np.asfortranarray(a)})) == same
    assert state_bytes("s", State({"b": a, "a": a.astype(">f8")})) == same


def test_facts_keep_infinity_and_nan(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    facts = read_state(
        store, put(store, "s", [state_bytes("s", State(facts={"a": float("inf"), "b": float("nan")}))])
    )
    assert facts.facts["a"] == float("inf")
    assert np.isnan(facts.facts["b"])


def test_a_state_is_a_safetensors_file_that_others_read(tmp_path: Path) -> None:
    with CheckpointLog(LocalStore(tmp_path)) as log:
        log.commit(Snapshot(states={"learner": State({"w": np.ones(3, np.float32)})}))
        (name,) = log.store.names("states/")
    np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / name)["w"], np.ones(3))


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, safetensors.numpy.save({"a": np.zeros(2)})])
def test_a_file_that_is_no_state_is_damage_even_under_a_fresh_checksum(tmp_path: Path, data: bytes) -> None:
    store = LocalStore(tmp_path)
    with pytest.raises(DamagedError, match="'s'"):
        read_state(store, put(store, "s", [data]))


@given(
    st.lists(st.sampled_from(["a/x", "a/y", "b/x", "a", "c"]), unique=True),
    st.sampled_from(["a/", "b/", "d", "a"]),
)
def test_a_part_of_a_state_is_its_arrays_of_that_prefix_and_its_facts(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], prefix: str
) -> None:
    store = LocalStore(tmp_path_factory.getbasetemp() / "parts")
    arrays = {name: np.arange(i * 3, dtype=np.float64).reshape(i, 3) for i, name in enumerate(names)}
    entry = put(store, "s", [state_bytes("s", State(arrays, {"n": 1}))])
    part = read_state(store, entry, prefix=prefix)
    assert part.facts == {"n": 1}
    assert sorted(part.arrays) == sorted(name for name in names if name.startswith(prefix))
    for name, array in part.arrays.items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.flags.writeable


def test_a_part_of_a_state_in_a_version_is_checked_as_the_whole(tmp_path: Path) -> None:
    with CheckpointLog(LocalStore(tmp_path)) as log:
        state = State({"network/w": np.ones(3), "optimizer/w": np.zeros(3)})
        manifest = log.commit(Snapshot(states={"learner": state}))
        assert list(log.states(manifest, "learner", prefix="network/").arrays) == ["network/w"]
        file = tmp_path / manifest.states["learner"].name
        file.write_bytes(file.read_bytes()[:-1] + b"!")
        with pytest.raises(DamagedError, match="learner"):
            log.states(manifest, "learner", prefix="network/")
