"""Policies: what they take, how a population acts, and what is served of them."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from onstream import Episodes, Gym, Policy, load_job
from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.errors import CheckpointError, JobError
from onstream.evolution import Sampler, begin
from onstream.evolution.vectors import Population, arrays_of, flatten, shapes_of, split
from onstream.serving.version import Copy
from tests.evolution.policies import cartpole, nearness, point


class Shared(nn.Module):
    """A network that is no stack of layers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
        self.register_buffer("shift", torch.full((4,), 0.5))

    def forward(self, x):
        return self.layer(torch.relu(self.layer(x) * self.scale) + self.shift * self.frozen)


def again():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4, bias=False)),
        lambda: nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 4)),
        lambda: nn.Sequential(nn.Tanh(), nn.Linear(4, 4)),
        again,
        Shared,
    ],
)
def test_each_of_a_population_acts_as_its_own_network_would(make):
    network = make()
    shapes = shapes_of(network)
    vectors = np.random.default_rng(1).normal(size=(5, len(flatten(arrays_of(network), shapes))))
    vectors = vectors.astype(np.float32)
    seen = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32)
    members = np.array([4, 0, 2])
    population = Population(network, vectors)
    found = population.scores(seen, members)
    for row, member in enumerate(members):
        own = {name: torch.from_numpy(np.array(a)) for name, a in split(vectors[member], shapes).items()}
        with torch.no_grad():
            expected = torch.func.functional_call(network, own, (torch.from_numpy(seen[row : row + 1]),))
        assert np.allclose(found[row], expected.numpy()[0], atol=1e-5)
    assert np.array_equal(population.scores(seen[:1], members[:1]), found[:1])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"network": lambda: nn.Linear(3, 3)}, r"must give \(2, 2\) scores for 2 observations, got \(2, 3\)"),
        ({"network": lambda: nn.Linear(5, 2)}, "fails for observations of shape"),
        ({"network": lambda: 7}, "network must give an nn.Module, got int"),
        ({"network": lambda: nn.Linear(3, 2).requires_grad_(False)}, "no parameters to learn"),
    ],
)
def test_networks_that_do_not_fit_are_refused(settings, told):
    with pytest.raises(JobError, match=told):
        point(**settings).make_network()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Policy(nn.Linear(4, 2), actions=2), "needs its observation"),
        (lambda: Policy(nn.Linear(4, 2), observation=(4,)), "needs its actions"),
        (lambda: Policy("net", observation=(4,), actions=2), "network must be an nn.Module"),
        (lambda: Policy(nn.Linear(4, 2), "CartPole-v1"), "environment must be such as Gym"),
        (lambda: point(discount=1.5), "discount must be from 0 to 1"),
        (lambda: point(max_staleness=-1), "max_staleness must be a whole number of at least 0"),
        (lambda: point(keep=0), "keep must be a whole number of at least 1"),
        (lambda: point(publish="9"), "publish must be the name of a tag"),
        (lambda: point(rewards="kafka://here"), "kafka://host:port/topic, got 'kafka://here'"),
        (lambda: Gym("NoSuch-v0"), "Gym\\('NoSuch-v0'\\)"),
    ],
)
def test_policies_that_cannot_be_are_refused(make, told):
    with pytest.raises(JobError, match=told):
        make()


def served(directory, observations):
    log = CheckpointLog(LocalStore(directory))
    copy = Copy()
    copy.load(log, log.newest())
    rows = pa.record_batch({"observation": pa.array(observations.tolist(), pa.list_(pa.float32()))})
    return copy.version.predict(rows)


def test_what_is_served_scores_as_the_policy_does(tmp_path):
    policy = cartpole()
    begin(policy, tmp_path)
    seen = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    with torch.no_grad():
        expected = torch.softmax(policy.make_network()(torch.from_numpy(seen)), 1).numpy()
    assert np.allclose(served(tmp_path, seen)["action"], expected, atol=1e-6)


def test_actions_of_several_numbers_are_served_by_name(tmp_path):
    policy = point()
    begin(policy, tmp_path)
    seen = np.ones((2, 3), np.float32)
    with torch.no_grad():
        expected = policy.make_network()(torch.from_numpy(seen)).numpy()
    found = served(tmp_path, seen)
    assert np.allclose(np.stack([found["x"], found["y"]], 1), expected, atol=1e-6)


def test_buffers_and_frozen_parameters_stay_as_they_are(tmp_path):
    policy = Policy(Shared, observation=(4,), actions=4, seed=1)
    begin(policy, tmp_path)
    with Sampler(policy, tmp_path) as sampler:
        network = sampler.draw().network
    assert torch.equal(network.shift, torch.full((4,), 0.5))
    assert torch.equal(network.frozen, torch.ones(4))
    assert not torch.equal(network.scale, torch.ones(4))


def test_boxes_of_actions_are_cut_to_their_bounds():
    pendulum = Gym("Pendulum-v1")
    assert (pendulum.observation, pendulum.actions) == ((3,), ("action_0",))
    most, more = (
        pendulum.run(lambda seen, members, to=to: np.full((len(members), 1), to, np.float32), [3])
        for to in (2.0, 100.0)
    )
    assert most == more


def test_the_same_seed_is_the_same_luck():
    always = [lambda seen, members: np.tile(np.array([[0.0, 1.0]], np.float32), (len(members), 1))] * 2
    gym = Gym("CartPole-v1")
    one, other = (gym.run(act, [5, 5, 6, 7]) for act in always)
    assert np.array_equal(one, other)
    assert one[0] == one[1]


def test_a_directory_that_holds_something_else_is_refused(tmp_path, monkeypatch):
    begin(point(), tmp_path / "point")
    with pytest.raises(JobError, match="has versions up to 1"):
        begin(point(), tmp_path / "point")
    with pytest.raises(CheckpointError, match="parameters are"):
        Sampler(cartpole(), tmp_path / "point")
    with pytest.raises(CheckpointError, match="holds no policy; begin one"):
        Sampler(point(), tmp_path / "nothing")


def test_an_environment_may_be_a_function():
    episodes = Episodes(nearness, (3,), ("x", "y"))
    assert episodes.run(lambda seen, members: np.array([[0.5, -1.0]], np.float32), [1, 2]).tolist() == [
        0.0,
        0.0,
    ]


def test_a_policy_file_is_no_job_file(tmp_path):
    path = tmp_path / "policy.py"
    path.write_text("from tests.evolution.policies import point\npolicy = point()\n")
    with pytest.raises(JobError, match="this one makes no Job"):
        load_job(path)
