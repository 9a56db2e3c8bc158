"""Samplers and updater together: what is logged is learned from exactly once."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing

import numpy as np
import pytest

from onstream import Sampler
from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.errors import CheckpointError, JobError
from onstream.evolution import Model, Updater, antithetic_keys, begin
from onstream.evolution.reward_rows import reward_rows
from onstream.evolution.rewards import RewardLog
from onstream.streams import Log
from tests.evolution.policies import POINT, cartpole, point


def newest(directory):
    log = CheckpointLog(LocalStore(directory))
    manifest = log.newest()
    return Model.load(log, manifest), manifest


def logged(directory):
    """All rows of the log of rewards."""
    with closing(Log(directory / "rewards.db", follow=False)) as log:
        chunks = log.read({}, max_rows=10_000, stop=threading.Event())
        return [row for chunk in chunks for row in chunk.batch.to_pylist()]


def append(directory, rows):
    with closing(RewardLog(directory)) as log:
        log.append(rows)


# ---------------------------------------------------------------------------------------- learning


def test_cartpole_gets_better(tmp_path):
    policy = cartpole(seed=2)
    begin(policy, tmp_path)
    with Sampler(policy, tmp_path, seed=2) as sampler:
        before = sampler.evaluate(20).mean()
        for _ in range(12):
            sampler.sample(16)
            assert Updater(tmp_path).run() == 1
        after = sampler.evaluate(20).mean()
    assert before < 60
    assert after > 3 * before


def test_a_program_of_its_own_may_act_and_report(tmp_path):
    """Rewards come one by one, some late, and one never."""
    policy = point(population=4)
    begin(policy, tmp_path)
    with Sampler(policy, tmp_path, seed=1) as sampler:
        late = []
        for number in range(5):
            with sampler.draw() as trial:
                if number == 2:
                    continue
                late.append((trial.key, trial.version))
        for key, version in reversed(late):
            sampler.report(key, version, 1.0)
        assert late[0][0] ^ late[1][0] == 1
        assert Updater(tmp_path).run() == 1
        assert sampler.draw().version == 2
    assert [row["key"] for row in logged(tmp_path)] == [key for key, _ in reversed(late)]


@pytest.mark.parametrize(
    ("key", "version", "told"),
    [
        (1 << 63, 1, "the key of a trial"),
        (-1, 1, "the key of a trial"),
        (2, 1 << 70, "the version of a trial"),
    ],
)
def test_what_no_trial_can_have_is_not_reported(tmp_path, key, version, told):
    begin(point(), tmp_path)
    with Sampler(point(), tmp_path) as sampler, pytest.raises(JobError, match=told):
        sampler.report(key, version, 1.0)
    assert logged(tmp_path) == []


def test_a_trial_acts_with_the_parameters_that_its_key_stands_for(tmp_path):
    policy = point()
    begin(policy, tmp_path)
    model, _ = newest(tmp_path)
    with Sampler(policy, tmp_path) as sampler:
        trial = sampler.draw()
    own = np.concatenate([p.numpy().ravel() for p in trial.network.parameters()])
    assert np.array_equal(own, model.solver.parameters + model.solver.ask([trial.key])[0])


# ------------------------------------------------------------------------------------ what counts


def test_every_population_of_rewards_makes_one_update_and_the_rest_waits(tmp_path):
    begin(point(), tmp_path)
    keys = antithetic_keys(np.random.default_rng(1), 10)
    append(tmp_path, reward_rows(keys, np.ones(20), np.arange(20.0)))
    seen = []
    assert Updater(tmp_path).run(updated=seen.append) == 2
    assert [(progress.version, progress.rewards) for progress in seen] == [(2, 8), (3, 16)]
    assert [progress.update.stale for progress in seen] == [0, 8]
    assert newest(tmp_path)[1].positions == {"log": 16}
    assert Updater(tmp_path).run() == 0
    append(tmp_path, reward_rows(keys[:4], np.full(4, 3), np.arange(4.0)))
    assert Updater(tmp_path).run(updated=seen.append) == 1
    assert (seen[-1].update.used, seen[-1].update.stale) == (8, 4)


def test_rewards_that_do_not_count_make_no_update_and_are_told(tmp_path):
    begin(point(max_staleness=1), tmp_path)
    keys = antithetic_keys(np.random.default_rng(1), 4)
    # Of a version that is none, not finite, and of a key that is none: no population in 12 rows.
    append(tmp_path, reward_rows(keys, [1] * 7 + [9], np.arange(8.0)))
    append(tmp_path, reward_rows([-2, 3, 4, 5], [1] * 4, [1.0, np.nan, np.inf, -np.inf]))
    assert Updater(tmp_path).run() == 0
    seen = []
    append(tmp_path, reward_rows(keys[:1], [1], [1.0]))
    Updater(tmp_path).run(updated=seen.append)
    assert (seen[0].update.used, seen[0].update.dropped) == (8, 5)
    for version in (1, 1, 2, 1):
        append(tmp_path, reward_rows(keys, [version] * 8, np.arange(8.0)))
    # The second update makes version 3, of which version 1 is two updates old.
    assert Updater(tmp_path).run(updated=seen.append) == 2
    assert seen[-1].update.dropped == 8


def test_rows_of_another_form_are_dropped(tmp_path):
    begin(point(), tmp_path)
    with closing(Log(tmp_path / "rewards.db")) as log:
        log.append([{"key": "a", "version": 1, "reward": 1.0}, {"key": None, "version": 1, "reward": 1.0}])
        log.append([{"other": 1}])
    append(tmp_path, reward_rows(range(8), [1] * 8, np.arange(8.0)))
    seen = []
    assert Updater(tmp_path).run(updated=seen.append) == 1
    assert seen[0].update.dropped == 3


def test_after_a_rollback_rewards_of_the_other_branch_are_dropped(tmp_path):
    begin(point(), tmp_path)
    keys = antithetic_keys(np.random.default_rng(1), 4)
    for version in (1, 2):
        append(tmp_path, reward_rows(keys, [version] * 8, np.arange(8.0)))
        Updater(tmp_path).run()
    parameters = newest(tmp_path)[0].solver.parameters
    append(tmp_path, reward_rows(keys, [3] * 8, np.arange(8.0)))
    with CheckpointLog(LocalStore(tmp_path)) as log:
        assert log.rollback(2).version == 4
    seen = []
    assert Updater(tmp_path).run(updated=seen.append) == 1
    # The rewards of version 2 count again, as if those of version 3 had never been.
    assert seen[0].update.dropped == 0
    assert np.array_equal(newest(tmp_path)[0].solver.parameters, parameters)
    append(tmp_path, reward_rows(keys, [5] * 8, np.arange(8.0)))
    assert Updater(tmp_path).run(updated=seen.append) == 1
    assert (seen[-1].update.used, seen[-1].update.dropped) == (8, 8)


def test_settings_may_change_but_not_those_that_tie_rewards_to_noise(tmp_path):
    begin(point(), tmp_path)
    append(tmp_path, reward_rows(range(8), [1] * 8, np.arange(8.0)))
    for name in ("sigma", "seed", "noise_size", "luck"):
        with pytest.raises(JobError, match=f"can change lr, .*; got '{name}'"):
            Updater(tmp_path, changes={name: 1}).run()
    assert Updater(tmp_path, changes={"population": 4, "lr": 0.5}).run() == 2
    assert newest(tmp_path)[0].solver.strategy.lr == 0.5


def test_a_tag_follows_unless_it_is_held(tmp_path):
    begin(point(publish="production"), tmp_path)
    log = CheckpointLog(LocalStore(tmp_path))
    assert log.tags() == {"production": 1}
    append(tmp_path, reward_rows(range(16), [1] * 16, np.arange(16.0)))
    Updater(tmp_path).run()
    assert log.tags() == {"production": 3}
    log.roll_back_tag("production")
    append(tmp_path, reward_rows(range(8), [3] * 8, np.arange(8.0)))
    Updater(tmp_path).run()
    assert log.tags() == {"production": 2}


def test_one_updater_at_a_time(tmp_path):
    begin(point(), tmp_path)
    with CheckpointLog(LocalStore(tmp_path)) as log:
        log.restore()
        with pytest.raises(CheckpointError):
            Updater(tmp_path).run()


# -------------------------------------------------------------------------------- killed processes


def wait_for(condition, process):
    """Wait until a condition of what lies on the disk holds, while a process goes on."""
    while not condition():
        assert process.poll() is None, process.communicate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.005)


def started(*arguments):
    command = [sys.executable, "-m", "onstream", "es", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed(process):
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_updater_goes_on_to_the_same_bits(tmp_path):
    """Each reward moves the parameters once: killed anywhere, they end as without."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    rng = np.random.default_rng(4)
    rewards = reward_rows(antithetic_keys(rng, 480), np.ones(960), rng.normal(size=960))
    for directory in (whole, broken):
        begin(point(max_staleness=10_000, discount=0.999), directory)
        append(directory, rewards)
    assert Updater(whole).run() == 120
    log = CheckpointLog(LocalStore(broken), report=lambda _: None)
    for least in (10, 50):
        process = started("update", broken)
        wait_for(lambda least=least: log.versions()[-1] >= least, process)
        killed(process)
        assert log.versions()[-1] < 121
    Updater(broken).run()
    one, other = newest(whole), newest(broken)
    assert np.array_equal(one[0].solver.parameters, other[0].solver.parameters)
    assert one[1].positions == other[1].positions == {"log": 960}
    assert one[0].rewards == other[0].rewards == 960


def test_a_killed_sampler_leaves_whole_pairs_and_the_updater_learns_on(tmp_path):
    path, directory = tmp_path / "policy.py", tmp_path / "model"
    path.write_text(POINT.format(arguments=""))
    begin(point(), directory)
    process = started("sample", path, directory, "--together", 4)
    log = CheckpointLog(LocalStore(directory))
    stop = threading.Event()
    updater = threading.Thread(target=Updater(directory).run, args=(stop,), kwargs={"follow": True})
    updater.start()
    try:
        wait_for(lambda: log.versions()[-1] >= 5, process)
    finally:
        killed(process)
        with Sampler(point(), directory) as sampler:
            sampler.sample(8)
        stop.set()
        updater.join()
    rows = logged(directory)
    model, manifest = newest(directory)
    assert len(rows) % 4 == 0
    assert [row["key"] ^ 1 for row in rows[::2]] == [row["key"] for row in rows[1::2]]
    # What counted, and what waits, are all there is: samplers wait, so none was too old.
    assert model.rewards == manifest.positions["log"]
    assert 8 * (manifest.version - 1) == model.rewards


def test_a_seed_that_comes_to_a_version_again_tries_something_new(tmp_path):
    policy = point()
    begin(policy, tmp_path)
    for _ in range(3):
        with Sampler(policy, tmp_path, seed=1) as sampler:
            sampler.sample(2)
    with Log(tmp_path / "rewards.db", follow=False) as log:
        read = log.read({}, max_rows=100, stop=threading.Event())
        keys = [key for chunk in read for key in chunk.batch["key"].to_pylist()]
    assert len(set(keys)) == 6
