"""The torch learner: what it predicts, learns, refuses and remembers."""

import numpy as np
import pytest
import torch
from torch import nn

from onstream.contracts import Label, State
from onstream.errors import CheckpointError, DivergedError, JobError
from onstream.learners import Torch
from onstream.learners.inputs import gather_inputs
from tests.learners.batches import batch, layout, rows_of


class Net(nn.Module):
    def __init__(self, outputs=1, width=3 * 4 + 1):
        super().__init__()
        self.one = nn.Linear(width, 8)
        self.two = nn.Linear(8, outputs)

    def forward(self, x):
        return self.two(torch.tanh(self.one(torch.cat([x.stack().flatten(1), x.numbers()], 1))))


def bound(network=Net, layout_=None, seed=0, **options) -> Torch:
    learner = Torch(network, **options)
    learner.bind(layout_ or layout(), seed)
    return learner


def arrays(learner: Torch) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in learner.state().arrays.items()}


def learn(learner: Torch, steps=3, first=0, **options):
    for seed in range(first, first + steps):
        example = batch(seed=seed, **options)
        outcome = learner.learn(example, rows_of(example))
    return outcome


def test_learning_answers_with_the_predictions_made_before_the_update():
    learner, example = bound(), batch()
    before = learner.predict(example, rows_of(example))
    outcome = learner.learn(example, rows_of(example))
    assert np.array_equal(outcome.predictions["y"], before["y"])
    assert not np.array_equal(learner.predict(example, rows_of(example))["y"], before["y"])


def test_predicting_changes_nothing():
    learner, example = bound(lambda: nn.Sequential(Net(), nn.Dropout(0.5))), batch()
    learn(learner)
    before = arrays(learner)
    learner.predict(example, rows_of(example))
    assert arrays(learner) == before


def test_rows_get_the_gradient_of_the_summed_loss_and_parameters_that_of_the_mean():
    learner, example = bound(optimizer="sgd", lr=1.0), batch()
    network, rows = Net(), torch.from_numpy(rows_of(example)["t"]).requires_grad_()
    network.load_state_dict(
        {k.removeprefix("network/"): torch.from_numpy(v) for k, v in _network(learner).items()}
    )
    x = gather_inputs(layout(), example, {"t": rows})
    loss = nn.functional.binary_cross_entropy_with_logits(
        network(x).squeeze(1), torch.from_numpy(example.labels["y"]), reduction="sum"
    )
    loss.backward()
    outcome = learner.learn(example, rows_of(example))
    assert outcome.loss == pytest.approx(loss.item() / 6, rel=1e-6)
    np.testing.assert_allclose(outcome.row_grads["t"], rows.grad, rtol=1e-6)
    for name, parameter in network.named_parameters():
        expected = parameter.detach() - parameter.grad / 6
        np.testing.assert_allclose(_network(learner)[f"network/{name}"], expected, rtol=1e-5, atol=1e-6)


def _network(learner: Torch) -> dict[str, np.ndarray]:
    return {k: v for k, v in learner.state().arrays.items() if k.startswith("network/")}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adagrad", "sgd", "rmsprop", torch.optim.NAdam])
def test_going_on_from_a_state_gives_the_same_bits(optimizer):
    def make():
        return bound(lambda: nn.Sequential(Net(8), nn.Dropout(0.3), nn.Linear(8, 1)), optimizer=optimizer)

    # Dropout draws from torch's one generator, so the learners run one after the other.
    whole = make()
    expected = learn(whole, 5).predictions["y"]
    bits = arrays(whole)
    first = make()
    learn(first, 2)
    state = first.state()
    second = make()
    second.load(state)
    assert arrays(second) == {name: array.tobytes() for name, array in state.arrays.items()}
    assert np.array_equal(learn(second, 3, first=2).predictions["y"], expected)
    assert arrays(second) == bits


def test_the_seed_decides_the_first_parameters():
    learners = [bound(seed=s) for s in (1, 1, 2)]
    first, second, third = (_network(learner)["network/one.weight"].tobytes() for learner in learners)
    assert first == second != third


class Switch(nn.Module):
    """Acts otherwise in training, in a way that no module type tells."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, x):
        return self.net(x) * (2 if self.training else 1)


@pytest.mark.parametrize(
    "network",
    [
        Switch,
        lambda: nn.Sequential(Net(8), nn.Dropout(0.5), nn.Linear(8, 1)),
        lambda: nn.Sequential(Net(8), nn.BatchNorm1d(8), nn.Linear(8, 1)),
        lambda: nn.Sequential(Net(8), nn.Dropout(1e-9), nn.Linear(8, 1)),
    ],
)
def test_a_network_that_acts_otherwise_in_training_predicts_as_in_evaluation(network):
    learner, example = bound(network), batch()
    before = learner.predict(example, rows_of(example))
    outcome = learner.learn(example, rows_of(example))
    assert np.array_equal(outcome.predictions["y"], before["y"])
    assert learner.state().facts["modal"] is True


def test_a_plain_network_needs_no_second_pass():
    calls = []

    class Counting(Net):
        def forward(self, x):
            calls.append(self.training)
            return super().forward(x)

    learner = bound(Counting)
    learn(learner, 1)
    assert learner.state().facts["modal"] is False
    calls.clear()
    learn(learner, 2)
    assert calls == [True, True]


def test_a_batch_that_is_not_finite_is_dropped_and_changes_nothing():
    learner = bound(lambda: nn.Sequential(Net(8), nn.BatchNorm1d(8), nn.Linear(8, 1)), max_dropped=3)
    learn(learner)
    before = {k: v for k, v in arrays(learner).items() if not k.startswith("random/")}
    example = batch()
    for poison in (np.inf, np.nan):
        rows = rows_of(example)
        rows["t"][2, 1] = poison
        outcome = learner.learn(example, rows)
        assert outcome.dropped and outcome.row_grads == {}
    assert {k: v for k, v in arrays(learner).items() if not k.startswith("random/")} == before


def test_batches_that_keep_being_not_finite_stop_the_job():
    learner, example = bound(max_dropped=3), batch()
    rows = rows_of(example)
    rows["t"][:] = np.nan
    for _ in range(2):
        learner.learn(example, rows)
    learner.learn(example, rows_of(example))
    for _ in range(2):
        learner.learn(example, rows)
    with pytest.raises(DivergedError, match="3 batches in a row"):
        learner.learn(example, rows)


def test_gradients_are_clipped_as_asked():
    example = batch()
    free = bound(optimizer="sgd", lr=1.0)
    clipped = bound(optimizer="sgd", lr=1.0, clip_norm=1e-3)
    by_row = bound(clip_row_norm=1e-3)
    grads = {}
    for name, learner in (("free", free), ("clipped", clipped), ("by_row", by_row)):
        before = _network(learner)
        outcome = learner.learn(example, rows_of(example))
        moved = [before[k] - v for k, v in _network(learner).items()]
        grads[name] = np.sqrt(sum((m**2).sum() for m in moved)), outcome.row_grads["t"]
    assert grads["free"][0] > 2e-3 and grads["clipped"][0] == pytest.approx(1e-3, rel=1e-3)
    norms = np.linalg.norm(grads["by_row"][1], axis=1)
    assert norms.max() <= 1.0001e-3 < np.linalg.norm(grads["free"][1], axis=1).max()


def test_large_gradients_are_finite_though_their_sum_is_not():
    network, example = Net(), batch()
    with torch.no_grad():
        network.one.weight.fill_(0.1), network.two.weight.fill_(1.0)
    learner = bound(
        network, loss=lambda outputs, labels: 4e37 * (outputs - outputs.detach()), optimizer="sgd"
    )
    outcome = learner.learn(example, rows_of(example))
    assert not outcome.dropped
    grads = torch.from_numpy(outcome.row_grads["t"])
    assert grads.isfinite().all() and not grads.sum().isfinite()


def test_bf16_computes_otherwise_and_nearly_the_same(monkeypatch):
    monkeypatch.setattr("onstream.learners.torch.has_bfloat16", lambda: True)
    example = batch(rows=64)
    full, half = bound(), bound(precision="bf16")
    one, other = (x.learn(example, rows_of(example)).predictions["y"] for x in (full, half))
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(one, other, atol=0.02)
    assert all(a.dtype == np.float32 for a in _network(half).values())
    assert half.notes == []


def test_bf16_is_fp32_and_says_so_where_the_processor_would_emulate_it(monkeypatch):
    monkeypatch.setattr("onstream.learners.torch.has_bfloat16", lambda: False)
    example = batch(rows=64)
    full, half = bound(), bound(precision="bf16")
    learn(full), learn(half)
    one, other = (x.predict(example, rows_of(example))["y"] for x in (full, half))
    assert np.array_equal(one, other)
    assert full.notes == [] and "computed in float32 here" in half.notes[0]


def test_a_weight_counts_a_row_as_often_as_it_says():
    single = batch(rows=2)
    keys = single.keys["t"].reshape(2, 3)[[0, 0, 0, 1]].ravel()
    labels = {"y": single.labels["y"][[0, 0, 0, 1]]}
    repeated = batch(rows=4, keys=keys, labels=labels)
    repeated.numbers[:] = single.numbers[[0, 0, 0, 1]]
    weighted = batch(rows=2, weights=np.array([3, 1], np.float32))
    grads = bound().learn(weighted, rows_of(weighted)).row_grads["t"]
    several = bound().learn(repeated, rows_of(repeated)).row_grads["t"]
    np.testing.assert_allclose(grads[:3], several[:9].reshape(3, 3, 4).sum(0), rtol=1e-5)
    np.testing.assert_allclose(grads[3:], several[9:], rtol=1e-5)


TASKS = (Label("click", "binary"), Label("stars", "class", 5), Label("price", "real"))


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net(outputs=7)

    def forward(self, x):
        out = self.net(x)
        return {"click": out[:, :1], "stars": out[:, 1:6], "price": out[:, 6]}


def several_labels(rows=6):
    rng = np.random.default_rng(5)
    return {
        "click": np.array([0, 1, np.nan, 1, 0, 1], np.float32),
        "stars": rng.integers(0, 5, rows).astype(np.float32),
        "price": rng.standard_normal(rows).astype(np.float32),
    }


def test_several_labels_of_several_tasks_learn_together():
    learner = bound(Several, layout(labels=TASKS), lr=0.05)
    example = batch(labels=several_labels())
    losses = [learner.learn(example, rows_of(example)).loss for _ in range(60)]
    predictions = learner.predict(example, rows_of(example))
    assert losses[-1] < 0.3 * losses[0]
    assert {name: p.shape for name, p in predictions.items()} == {
        "click": (6,),
        "stars": (6, 5),
        "price": (6,),
    }
    np.testing.assert_allclose(predictions["stars"].sum(1), 1, rtol=1e-5)


def test_a_missing_label_teaches_its_task_nothing():
    labels = several_labels()
    other = labels | {"click": np.where(np.isnan(labels["click"]), 0.0, labels["click"]).astype(np.float32)}
    rows = rows_of(batch())
    only_click = {"stars": 0.0, "price": 0.0}
    grads = [
        bound(Several, layout(labels=TASKS), loss_weights=only_click)
        .learn(batch(labels=given), rows)
        .row_grads["t"]
        .reshape(6, 3, 4)
        for given in (labels, other)
    ]
    assert np.all(grads[0][2] == 0) and np.any(grads[1][2] != 0)


def test_losses_are_chosen_by_name_or_given_as_functions():
    real = layout(labels=(Label("y", "real"),))
    example = batch(labels={"y": np.full(6, 3.0, np.float32)})

    def cubic(outputs, labels):
        return (outputs - labels).abs() ** 3

    losses = [
        bound(Net, real, loss=loss).learn(example, rows_of(example)).loss
        for loss in ("mse", "mae", "huber", cubic)
    ]
    assert len(set(losses)) == 4
    assert bound(Net, real).learn(example, rows_of(example)).loss == losses[0]
    assert bound(Net, real, loss={"y": "mae"}).learn(example, rows_of(example)).loss == losses[1]


def test_what_a_job_gets_wrong_is_said_in_words():
    example = batch()
    cases = [
        (lambda: Torch(Net, precision="fp8"), "precision must be"),
        (lambda: Torch(Net, optimizer="sgdm"), "optimizer must be one of"),
        (lambda: Torch(Net, lr="abc"), "lr must be a positive number"),
        (lambda: Torch(Net, clip_norm=-1.0), "clip_norm must be a positive number"),
        (lambda: Torch("Net"), "must be an nn.Module or make one"),
        (lambda: bound(Net, loss="mse"), "loss must be one of"),
        (lambda: bound(Net, loss={"z": "bce"}), r"names \['z'\]"),
        (lambda: bound(lambda: 3), "must give an nn.Module"),
        (lambda: bound(lambda: Net(2)).learn(example, rows_of(example)), r"must be \(6,\), got \(6, 2\)"),
        (
            lambda: bound(Net, layout(labels=TASKS)).learn(batch(labels=several_labels()), rows_of(example)),
            "a dict",
        ),
        (
            lambda: bound(Net, loss=lambda o, y: (o - y).mean()).learn(example, rows_of(example)),
            "do not reduce",
        ),
        (lambda: bound(lambda: _Asks("other")).learn(example, rows_of(example)), "the job's features are"),
    ]
    for make, text in cases:
        with pytest.raises(JobError, match=text):
            make()


class _Asks(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        return x[self.name].sum(1)


def test_lazy_modules_take_their_shapes_from_the_first_batch_and_from_a_state():
    def make():
        return bound(lambda: Lazy())

    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.deep = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(1))

        def forward(self, x):
            return self.deep(x.stack().flatten(1))

    first, second = make(), make()
    learn(first)
    second.load(first.state())
    learn(first)
    learn(second)
    assert arrays(first) == arrays(second)


def test_parameters_of_another_shape_begin_anew_and_are_named():
    old, new = bound(lambda: Net(width=13)), bound(lambda: Net(width=14), layout(numbers=2))
    learn(old)
    new.load(old.state())
    learn(new, 1, numbers=2)
    assert "one.weight" in new.notes[0] and "two.weight" not in new.notes[0]
    assert _network(old)["network/one.weight"].shape != _network(new)["network/one.weight"].shape


def test_another_optimizer_begins_with_a_state_of_its_own_and_says_so():
    old, new = bound(optimizer="adam"), bound(optimizer="rmsprop")
    learn(old)
    new.load(old.state())
    learn(new, 1)
    assert new.notes == ["the optimizer was Adam and is RMSprop now: its state begins anew"]
    assert any(name.endswith("square_avg") for name in new.state().arrays)


def test_an_optimizer_whose_state_is_no_tensor_is_refused():
    learner = bound(optimizer=lambda parameters: Odd(parameters, lr=0.1))

    class Odd(torch.optim.SGD):
        def step(self):
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["history"] = ["a"]

    learn(learner, 1)
    with pytest.raises(CheckpointError, match="'history' as list"):
        learner.state()


def test_a_network_without_parameters_learns_in_its_rows_alone():
    class Sum(nn.Module):
        def forward(self, x):
            return x.stack().sum((1, 2))

    learner = bound(Sum)
    assert np.any(learn(learner).row_grads["t"] != 0)
    second = bound(Sum)
    second.load(learner.state())
    assert isinstance(second.state(), State)


def test_ids_of_one_table_are_stacked_without_a_copy():
    example = batch()
    leaf = torch.from_numpy(rows_of(example)["t"])
    x = gather_inputs(layout(), example, {"t": leaf})
    assert x.stack().data_ptr() == leaf.data_ptr() and x.stack().shape == (6, 3, 4)
    assert x.stack("id1", "id2").data_ptr() == x["id1"].data_ptr()
    assert torch.equal(x.stack("id2", "id0"), torch.stack([x["id2"], x["id0"]], 1))
    assert list(x) == ["id0", "id1", "id2", "n0"] and x["n0"].shape == (6, 1)


def test_lists_are_summed_averaged_or_padded_with_a_mask():
    lists = (("s", "sum", 0), ("m", "mean", 0))
    shape = layout(ids=1, lists=lists)
    lengths = {"s": [2, 0, 1], "m": [1, 3, 0]}
    example = batch(rows=3, ids=1, lists=lengths)
    rows = rows_of(example)["t"]
    leaf = torch.from_numpy(rows).requires_grad_()
    x = gather_inputs(shape, example, {"t": leaf})
    own, means = rows[3:6], rows[6:]
    np.testing.assert_allclose(x["s"].detach(), [own[:2].sum(0), np.zeros(4), own[2]], rtol=1e-6)
    np.testing.assert_allclose(x["m"].detach(), [means[0], means[1:4].mean(0), np.zeros(4)], rtol=1e-6)
    x["m"].sum().backward()
    np.testing.assert_allclose(leaf.grad[6:, 0], [1, 1 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    assert x.stack().shape == (3, 3, 4)


def test_a_padded_list_has_a_mask_where_it_holds_ids():
    shape = layout(ids=1, lists=(("p", "pad", 2),))
    keys = np.array([1, 2, 3, 7, 0, 8, 9, 0, 0], np.uint64)
    example = batch(rows=3, ids=1, keys=keys)
    x = gather_inputs(shape, example, {"t": torch.from_numpy(rows_of(example)["t"])})
    assert x["p"].shape == (3, 2, 4)
    assert x.mask("p").tolist() == [[True, False], [True, True], [False, False]]
    assert x.stack().shape == (3, 1, 4)
    with pytest.raises(JobError, match="only a padded"):
        x.mask("id0")


def test_features_of_different_width_are_not_stacked():
    from onstream.contracts import Field, Layout, TableSpec

    fields = (Field("a", "id", table="t", dim=4), Field("b", "id", table="u", dim=2))
    shape = Layout(
        fields, (Label("y", "binary"),), (TableSpec("t", 4, {}, ("a",)), TableSpec("u", 2, {}, ("b",)))
    )
    example = batch(rows=2, ids=1)
    leaves = {"t": torch.zeros(2, 4), "u": torch.zeros(2, 2)}
    x = gather_inputs(shape, example, leaves)
    with pytest.raises(JobError, match="a: 4, b: 2"):
        x.stack()
    assert x.stack("b").shape == (2, 1, 2)
