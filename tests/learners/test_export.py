"""Exported networks: what they predict, what cannot be exported, and what no archive may do."""

import contextlib
import ctypes
import io
import json
import logging
import pickle
import random
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from onstream.contracts import Label, State
from onstream.errors import CheckpointError
from onstream.learners import ExportedNetwork, Torch
from onstream.learners.archive import open_archive
from tests.learners.batches import drawn
from tests.learners.exporting import NETWORKS, ids, made, numbers, trained

MODEL = "models/model.json"


def weights(learner: Torch) -> dict[str, np.ndarray]:
    arrays = learner.state().arrays
    return {name.removeprefix("network/"): a for name, a in arrays.items() if name.startswith("network/")}


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, "fp32") for name in NETWORKS),
        *((name, "bf16") for name in ("deepfm", "lists", "image", "modal", "attention")),
    ],
)
def test_an_exported_network_predicts_as_the_learner(name, precision):
    learner, layout = trained(name, precision=precision)
    assert learner.export() is not None, learner.notes
    exported = ExportedNetwork(learner.export(), layout)
    exported.load(State(weights(learner)))
    for rows in (1, 2, 7, 1000):
        batch, pulled = drawn(layout, rows, seed=9)
        expected, found = learner.predict(batch, pulled), exported.predict(batch, pulled)
        assert list(found) == list(expected)
        for label, values in expected.items():
            if name == "attention":
                # PyTorch has a fused form of this layer, which rounds in another order.
                most = {"fp32": 1e-6, "bf16": 2e-2}[precision]
                np.testing.assert_allclose(found[label], values, rtol=most, atol=most)
            else:
                np.testing.assert_array_equal(found[label], values)


def test_bfloat16_is_float32_where_the_processor_has_none(monkeypatch):
    learner, layout = trained("deepfm", precision="bf16")
    example = drawn(layout, 100)

    def predicted(exported: State) -> np.ndarray:
        network = ExportedNetwork(exported, layout)
        network.load(State(weights(learner)))
        return network.predict(*example)["click"]

    full = predicted(trained("deepfm", precision="fp32")[0].export())
    learner.export()
    monkeypatch.setattr("onstream.learners.archive.has_bfloat16", lambda: False)
    np.testing.assert_array_equal(predicted(learner.export()), full)
    monkeypatch.setattr("onstream.learners.archive.has_bfloat16", lambda: True)
    assert not np.array_equal(predicted(learner.export()), full)
    np.testing.assert_allclose(predicted(learner.export()), full, atol=2e-2)


class Cancelling(nn.Module):
    """A difference of large numbers, of which bfloat16 keeps nothing."""

    def __init__(self):
        super().__init__()
        self.last = nn.LazyLinear(1)

    def forward(self, x):
        return self.last(x.numbers() + 1000) - self.last(torch.full_like(x.numbers(), 1000))


def test_what_is_exported_is_checked_in_what_it_is_computed_in_here(monkeypatch):
    for place in ("torch", "archive", "export"):
        monkeypatch.setattr(f"onstream.learners.{place}.has_bfloat16", lambda: False)
    layout = made(*numbers(2), labels=(Label("price", "real"),))
    learner = Torch(Cancelling, precision="bf16")
    learner.bind(layout, 0)
    learner.learn(*drawn(layout, 5))
    assert learner.export() is not None, learner.notes


def test_no_rows_give_no_predictions():
    learner, layout = trained("several labels")
    exported = ExportedNetwork(learner.export(), layout)
    exported.load(State(weights(learner)))
    found = exported.predict(*drawn(layout, 0))
    assert {name: values.shape for name, values in found.items()} == {
        "click": (0,),
        "price": (0,),
        "kind": (0, 3),
    }


def test_one_export_serves_the_parameters_of_every_later_state():
    learner, layout = trained("modal")
    exported, first = ExportedNetwork(learner.export(), layout), learner.export()
    for seed in range(3, 6):
        learner.learn(*drawn(layout, 64, seed))
        exported.load(State(weights(learner)))
        batch, rows = drawn(layout, 20, seed=9)
        np.testing.assert_array_equal(
            exported.predict(batch, rows)["click"], learner.predict(batch, rows)["click"]
        )
    assert learner.export() is first


def test_there_is_no_export_before_a_batch():
    network, layout = NETWORKS["mlp"]
    learner = Torch(network)
    learner.bind(layout, 0)
    assert learner.export() is None
    learner.learn(*drawn(layout, 5))
    assert learner.export() is not None


def test_a_learner_that_is_not_servable_exports_nothing():
    learner, _ = trained("mlp", servable=False)
    assert (learner.export(), learner.notes) == (None, [])


def test_a_network_exports_to_equal_bytes_whatever_it_has_learned():
    first, layout = trained("modal")
    second = Torch(NETWORKS["modal"][0])
    second.bind(layout, 1)
    second.load(first.state())
    second.learn(*drawn(layout, 64, 7))
    assert second.export().arrays["archive"].tobytes() == first.export().arrays["archive"].tobytes()


def test_a_network_exports_to_equal_bytes_in_every_process():
    own = trained("several labels")[0].export().arrays["archive"].tobytes()
    command = [sys.executable, "-m", "tests.learners.exporting", "several labels"]
    other = subprocess.run(command, capture_output=True, check=True, cwd=Path(__file__).parents[2])
    assert other.stdout == own


def test_exporting_disturbs_neither_random_states_nor_the_network():
    def run(servable: bool):
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)
        learner, _ = trained("modal", servable=servable)
        module = learner._module
        grads = [p.grad.numpy().tobytes() for p in module.parameters()]
        bits = {name: a.tobytes() for name, a in learner.state().arrays.items()}
        return bits, grads, module.training, random.random(), np.random.random(), torch.rand(1).item()

    assert run(servable=True) == run(servable=False)


class Kept(nn.Module):
    """Keeps what it computed last."""

    def __init__(self):
        super().__init__()
        self.deep, self.last = nn.LazyLinear(4), nn.Linear(4, 1)

    def forward(self, x):
        self.hidden = torch.relu(self.deep(torch.cat([x.stack().flatten(1), x.numbers()], 1)))
        self.more = {"squares": [(self.hidden.square(), "of the last batch")]}
        return self.last(self.hidden)


class Normalized(Kept):
    def __init__(self):
        super().__init__()
        self.deep = nn.utils.weight_norm(nn.Linear(13, 4))
        self.last = nn.utils.spectral_norm(nn.Linear(4, 1))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("network", [Kept, Normalized])
def test_a_network_that_keeps_tensors_of_its_last_pass_is_exported(network):
    layout = made(*ids(3), *numbers(1))
    learner = Torch(network)
    learner.bind(layout, 0)
    learner.learn(*drawn(layout, 16))
    assert learner.export() is not None, learner.notes
    assert learner._module.hidden.requires_grad
    exported = ExportedNetwork(learner.export(), layout)
    exported.load(State(weights(learner)))
    example = drawn(layout, 20, seed=9)
    np.testing.assert_allclose(
        exported.predict(*example)["click"], learner.predict(*example)["click"], rtol=1e-6
    )


def test_an_archive_tells_neither_weights_nor_code():
    learner, _ = trained("modal")
    data = learner.export().arrays["archive"].tobytes()
    for private in (b"exporting.py", b"forward", b"x.stack", str(Path.home()).encode()):
        assert private not in data.replace(b"forward_arg_names", b"")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sizes = [info.file_size for info in archive.infolist() if "/weight_" in info.filename]
    assert sizes
    assert set(sizes) == {0}


def test_others_open_the_archive_with_torch_export():
    learner, layout = trained("mlp")
    program = torch.export.load(io.BytesIO(learner.export().arrays["archive"].tobytes()))
    network = program.module()
    network.load_state_dict({f"network.{k}": torch.from_numpy(v) for k, v in weights(learner).items()})
    batch, rows = drawn(layout, 7)
    parts = {
        "ids/t": torch.from_numpy(rows["t"]).view(7, 3, 4),
        "numbers": torch.from_numpy(batch.numbers),
    }
    np.testing.assert_allclose(
        network(parts)["click"].detach().numpy(), learner.predict(batch, rows)["click"], rtol=1e-6
    )


# ---------------------------------------------------------------------------------- what cannot be exported


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.LazyLinear(1)

    def forward(self, x):
        row = torch.cat([x.stack().flatten(1), x.numbers()], 1)
        return self.last(row) if row.sum() > 0 else self.last(-row)


class Sized(Branching):
    def forward(self, x):
        row = torch.cat([x.stack().flatten(1), x.numbers()], 1)
        return self.last(row) * (2 if x.num_rows > 6 else 1)


class Counting(Branching):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.last(torch.cat([x.stack().flatten(1), x.numbers()], 1)) + self.calls


class Drawing(Branching):
    def forward(self, x):
        row = torch.cat([x.stack().flatten(1), x.numbers()], 1)
        return self.last(row + torch.randn(row.shape))


class Numpy(Branching):
    def forward(self, x):
        row = torch.cat([x.stack().flatten(1), x.numbers()], 1)
        return (
            self.last(row)
            + torch.from_numpy(np.ones(x.num_rows, np.float32) * float(row.detach().mean()))[:, None]
        )


@pytest.mark.parametrize("network", [Branching, Sized, Counting, Drawing, Numpy])
def test_a_network_that_cannot_be_exported_is_noted_once_and_learning_goes_on(network):
    layout = made(*ids(3), *numbers(1))
    learners = [Torch(network, servable=servable) for servable in (True, False)]
    for learner in learners:
        learner.bind(layout, 0)
        for seed in range(3):
            learner.learn(*drawn(layout, 16, seed))
    exporting, plain = learners
    assert exporting.export() is None
    assert len(exporting.notes) == 1
    assert exporting.notes[0].startswith(
        "the network cannot be exported, so this model can be trained but not served"
    )
    assert {k: v.tobytes() for k, v in weights(exporting).items()} == {
        k: v.tobytes() for k, v in weights(plain).items()
    }


# ------------------------------------------------------------------------------------------ what is loaded


def test_parameters_that_are_missing_or_have_another_shape_are_refused():
    learner, layout = trained("mlp")
    exported = ExportedNetwork(learner.export(), layout)
    own = weights(learner)
    with pytest.raises(CheckpointError, match=r"'deep\.0\.bias' of shape \(128,\), got none"):
        exported.load(State({name: array for name, array in own.items() if name != "deep.0.bias"}))
    with pytest.raises(CheckpointError, match=r"'deep\.4\.weight' of shape \(1, 64\), got \(64, 1\)"):
        exported.load(State(own | {"deep.4.weight": own["deep.4.weight"].T}))


@pytest.mark.parametrize(
    "other", [made(*ids(2), *numbers(1)), made(*ids(3), *numbers(1), labels=(Label("price", "real"),))]
)
def test_a_network_of_other_features_or_labels_is_refused(other):
    learner, _ = trained("mlp")
    with pytest.raises(CheckpointError, match=r"made for the (inputs|outputs)"):
        ExportedNetwork(learner.export(), other)


def test_predictions_stay_when_the_memory_of_the_rows_is_used_again():
    learner, layout = trained("no parameters")
    exported = ExportedNetwork(learner.export(), layout)
    exported.load(State())
    batch, rows = drawn(layout, 7)
    found = exported.predict(batch, rows)["price"]
    before = found.copy()
    rows["t"][:] = 0
    np.testing.assert_array_equal(found, before)


def test_many_threads_may_predict_at_once():
    learner, layout = trained("deepfm", precision="bf16")
    exported = ExportedNetwork(learner.export(), layout)
    exported.load(State(weights(learner)))
    examples = [drawn(layout, rows, seed=rows) for rows in range(1, 30)]
    expected = [exported.predict(*example)["click"].tobytes() for example in examples]
    wrong = []

    def predict():
        for example, bits in [*zip(examples, expected, strict=True)] * 5:
            if exported.predict(*example)["click"].tobytes() != bits:
                wrong.append(example)

    threads = [threading.Thread(target=predict) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_every_thread_predicts_with_as_many_threads_as_were_set():
    learner, layout = trained("deepfm")
    exported = ExportedNetwork(learner.export(), layout)
    exported.load(State(weights(learner)))
    found = [*Path(torch.__file__).parent.glob("lib/libgomp*")]
    if not found:
        pytest.skip("this PyTorch comes without libgomp, which would tell")
    openmp = ctypes.CDLL(found[0])
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        with ThreadPoolExecutor(1) as other:
            other.submit(exported.predict, *drawn(layout, 1)).result()
            assert other.submit(openmp.omp_get_max_threads).result() == before + 1
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------- hostile archives


class Touch:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def good():
    learner, layout = trained("modal", precision="bf16")
    return learner.export(), layout, weights(learner)


def members(state: State) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(state.arrays["archive"].tobytes())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(state: State, content: dict[str, bytes], compression=zipfile.ZIP_STORED) -> State:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return replace(state, arrays={"archive": np.frombuffer(buffer.getvalue(), np.uint8)})


def changed(state: State, change) -> State:
    """Return the state with its model's JSON changed."""
    content = members(state)
    [name] = [name for name in content if name.endswith(MODEL)]
    model = json.loads(content[name])
    change(model)
    return packed(state, content | {name: json.dumps(model).encode()})


def nodes(model):
    return model["graph_module"]["graph"]["nodes"]


def test_an_archive_packed_again_is_read(good):
    state, layout, values = good
    ExportedNetwork(packed(state, members(state)), layout).load(State(values))


def test_pickled_sample_inputs_are_never_read(good, tmp_path, monkeypatch):
    state, layout, values = good
    content = members(state)
    [name] = [name for name in content if name.endswith("sample_inputs/model.pt")]
    buffer = io.BytesIO()
    torch.save(Touch(tmp_path / "touched"), buffer)
    hostile = packed(state, content | {name: buffer.getvalue()})
    ExportedNetwork(hostile, layout).load(State(values))
    assert not (tmp_path / "touched").exists()
    # It warns of that, with a message that logging cannot format.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with contextlib.suppress(AssertionError):
        torch.export.load(io.BytesIO(hostile.arrays["archive"].tobytes()))
    assert (tmp_path / "touched").exists(), (
        "PyTorch reads them, so the archive was as hostile as it should be"
    )


def test_pickled_constants_are_refused(good, tmp_path):
    state, layout, _ = good
    content = members(state)
    [name] = [name for name in content if name.endswith("model_constants_config.json")]
    config = json.loads(content[name])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    folder = name.rpartition("/")[0]
    data = pickle.dumps(Touch(tmp_path / "touched"))
    hostile = packed(
        state, content | {name: json.dumps(config).encode(), f"{folder}/{entry['path_name']}": data}
    )
    with pytest.raises(CheckpointError, match="is pickled"):
        ExportedNetwork(hostile, layout)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "name",
    [
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
        "extra/run.py",
        "data/aotinductor/model/model.so",
    ],
)
def test_members_that_have_no_place_in_it_are_refused(good, name):
    state, layout, _ = good
    with pytest.raises(CheckpointError, match=f"{name}.* has no place"):
        ExportedNetwork(packed(state, members(state) | {f"archive/{name}": b"x"}), layout)


def test_a_compressed_archive_is_refused(good):
    state, layout, _ = good
    with pytest.raises(CheckpointError, match="is compressed"):
        ExportedNetwork(packed(state, members(state), zipfile.ZIP_DEFLATED), layout)


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "torch.hub.load",
        "torch._C._jit_set_profiling_mode",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__.default",
        "torch.ops.aten.add.__init__",
        "torch.ops.aten._resize_output_.default",
        "torch.ops.higher_order.cond",
        "_operator.attrgetter",
        "_operator.methodcaller",
        "math.__loader__",
        "builtins.eval",
        "#extension.run",
        "",
    ],
)
def test_targets_beyond_tensor_operators_are_refused(good, target):
    state, layout, _ = good

    def change(model):
        nodes(model)[0]["target"] = target

    with pytest.raises(CheckpointError, match="none of a network's tensor operators"):
        ExportedNetwork(changed(state, change), layout)


def test_expressions_are_not_evaluated(good, tmp_path):
    state, layout, values = good
    run = f"__import__('pathlib').Path({str(tmp_path / 'touched')!r}).touch()"

    def change(model):
        found = json.loads(json.dumps(model), object_hook=with_expression)
        assert run in str(found)
        model.update(found)

    def with_expression(record):
        return record | {"expr_str": run} if "expr_str" in record else record

    ExportedNetwork(changed(state, change), layout).load(State(values))
    assert not (tmp_path / "touched").exists()


def test_an_export_of_another_format_is_refused(good):
    state, layout, _ = good
    with pytest.raises(CheckpointError, match=r"format 'onstream\.network/2'"):
        ExportedNetwork(State(state.arrays, state.facts | {"format": "onstream.network/2"}), layout)


@given(st.data())
@settings(max_examples=100)
def test_an_archive_of_which_any_bytes_are_changed_raises_nothing_but_checkpoint_errors(good, data):
    state, layout, values = good
    content = bytearray(state.arrays["archive"].tobytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    tried(State({"archive": np.frombuffer(bytes(content), np.uint8)}, state.facts), layout, values)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=4) | st.just(1 << 62),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@given(st.data())
@settings(max_examples=100)
def test_a_model_of_which_any_values_are_changed_raises_nothing_but_checkpoint_errors(good, data):
    state, layout, values = good

    def change(model):
        for _ in range(data.draw(st.integers(1, 3))):
            at = model["graph_module"][data.draw(st.sampled_from(["graph", "signature"]))]
            while True:
                keys = list(at) if isinstance(at, dict) else range(len(at))
                if not keys:
                    break
                key = data.draw(st.sampled_from(keys))
                if isinstance(at[key], dict | list) and at[key] and data.draw(st.integers(0, 9)):
                    at = at[key]
                    continue
                at[key] = data.draw(JSON)
                break

    tried(changed(state, change), layout, values)


@given(st.sampled_from(["format", "inputs", "outputs", "precision", "parameters", "torch", None]), JSON)
def test_a_description_of_which_any_values_are_changed_raises_nothing_but_checkpoint_errors(
    good, name, value
):
    state, layout, values = good
    tried(State(state.arrays, value if name is None else state.facts | {name: value}), layout, values)


def tried(state, layout, values):
    batch, rows = drawn(layout, 3)
    try:
        exported = ExportedNetwork(state, layout)
        exported.load(State({name: array.copy() for name, array in values.items()}))
        exported.predict(batch, rows)
    except CheckpointError:
        pass


def test_an_archive_is_read_without_the_rest_of_the_state(good):
    opened = open_archive(good[0].arrays["archive"].tobytes())
    assert {entry.kind for entry in opened.inputs} == {"weight", "constant", "user"}
