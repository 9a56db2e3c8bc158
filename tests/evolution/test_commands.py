"""The commands of evolution, as a shell would run them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from onstream.checkpoints import CheckpointLog, LocalStore
from tests.cli.commands import Command
from tests.evolution.policies import POINT
from tests.evolution.test_updates import logged, newest


@pytest.fixture
def onstream(monkeypatch, capsys):
    return Command(monkeypatch, capsys)


EXAMPLE = Path(__file__).parents[2] / "examples/cartpole.py"


def policy_file(folder, text=POINT, **names):
    path = folder / "policy.py"
    path.write_text(text.format(**{"arguments": ""} | names))
    return path


def test_the_three_commands_begin_act_and_learn(onstream, tmp_path):
    path, model = policy_file(tmp_path), tmp_path / "model"
    assert "version 1 of" in onstream.fine("es", "init", path, model)
    said = onstream.fine("es", "sample", path, model, "--episodes", 14, "--together", 4, "--seed", 1)
    assert said.splitlines()[-1] == "14 rewards logged"
    assert "version 2: 8 rewards, mean" in onstream.fine("es", "update", model)
    said = onstream.fine("es", "sample", path, model, "--episodes", 2, "--seed", 1)
    assert said.startswith("version 2: 2 episodes, mean reward -")
    said = onstream.fine("es", "update", model, "--set", "lr=0.01")
    assert "8 rewards, 6 of older versions, mean" in said
    assert newest(model)[0].solver.strategy.lr == 0.01
    listed = onstream.fine("checkpoints", "list", model)
    assert [line.split()[:2] for line in listed.splitlines()[1:]] == [["1", "0"], ["2", "8"], ["3", "16"]]
    assert "'updates': 2" in onstream.fine("checkpoints", "show", model)


def test_the_same_seed_tries_the_same_perturbations(onstream, tmp_path):
    path = policy_file(tmp_path)
    keys = []
    for name, seed in (("one", 1), ("other", 1), ("third", 2)):
        onstream.fine("es", "init", path, tmp_path / name)
        onstream.fine("es", "sample", path, tmp_path / name, "--episodes", 4, "--seed", seed)
        keys.append([row["key"] for row in logged(tmp_path / name)])
    assert keys[0] == keys[1] != keys[2]


MISTAKE = """
from onstream.evolution import Episodes, Policy
from torch import nn

def nearness(act, seed):
    return act.nearness

policy = Policy(lambda: nn.Linear(3, 2), Episodes(nearness, (3,), ("x", "y")), sigma=0.2, lr=0.1, population=8)
"""


@pytest.mark.parametrize("command", [("sample", "--episodes", 2), ("evaluate",)])
def test_a_mistake_in_the_policy_is_shown_from_its_file_on(onstream, tmp_path, command):
    path, model = policy_file(tmp_path), tmp_path / "model"
    onstream.fine("es", "init", path, model)
    path.write_text(MISTAKE)
    code, _, said = onstream("es", command[0], path, model, *command[1:])
    assert code == 1
    assert said.startswith(f"onstream: {path}, line 6: AttributeError: ")
    assert "in nearness" in said and "typer" not in said


def test_evaluating_tells_whether_the_target_is_reached(onstream, tmp_path):
    path, model = policy_file(tmp_path), tmp_path / "model"
    onstream.fine("es", "init", path, model)
    assert "mean reward of 3 episodes -" in onstream.fine("es", "evaluate", path, model, "--episodes", 3)
    onstream.fine("es", "evaluate", path, model, "--episodes", 3, "--target", -1000)
    code, said, err = onstream("es", "evaluate", path, model, "--episodes", 3, "--target", 0)
    assert (code, err) == (1, "")
    assert said.startswith("version 1: mean reward")
    assert logged(model) == []


def test_one_job_samples_and_updates(tmp_path):
    path, model = policy_file(tmp_path), tmp_path / "model"
    command = [sys.executable, "-m", "onstream", "es", "run", str(path), str(model)]
    command += ["--samplers", "2", "--updates", "6", "--seed", "1"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "6 updates"
    assert "version 7: 8 rewards" in said
    assert newest(model)[1].version == 7
    # They have ended, so nobody writes any more, and each logged its share of an update at a time.
    assert len(logged(model)) % 4 == 0


def test_ctrl_c_ends_a_job_and_its_samplers(tmp_path):
    path, model = policy_file(tmp_path), tmp_path / "model"
    command = [sys.executable, "-m", "onstream", "es", "run", str(path), str(model), "--samplers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("version 3: "):
                process.send_signal(signal.SIGINT)
                break
        said = process.stdout.read()
    assert process.returncode == 130
    assert said.endswith(" updates\n")
    assert CheckpointLog(LocalStore(model)).newest(verify=True).version >= 3


def test_a_sampler_that_cannot_go_on_ends_the_job(onstream, tmp_path):
    text = POINT + "\nimport sys\nif 'sample' in sys.argv:\n    raise RuntimeError('no arm here')\n"
    path = policy_file(tmp_path, text)
    told = onstream.refused("es", "run", path, tmp_path / "model", "--samplers", 1)
    assert "a sampler ended with code 2" in told
    assert "no arm here" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["init", "{folder}/nothing.py", "{folder}/model"], "there is no policy file"),
        (["init", "{folder}/empty.py", "{folder}/model"], "a policy file makes one Policy"),
        (
            ["sample", "{folder}/policy.py", "{folder}/model", "--together", "3", "--episodes", "4"],
            "act in pairs",
        ),
        (
            ["sample", "{folder}/policy.py", "{folder}/model", "--episodes", "3"],
            "perturbations act in pairs: --episodes must be even, got 3",
        ),
        (["update", "{folder}/model", "--set", "lr"], "--set takes NAME=VALUE"),
        (["update", "{folder}/model", "--set", "sigma=1"], "can change lr"),
        (["update", "{folder}/model", "--set", "lr=fast"], "lr must be a positive number, got 'fast'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(onstream, tmp_path, arguments, told):
    path = policy_file(tmp_path)
    (tmp_path / "empty.py").write_text("")
    onstream.fine("es", "init", path, tmp_path / "model")
    assert told in onstream.refused("es", *(text.format(folder=tmp_path) for text in arguments))


def test_commands_of_a_directory_without_a_policy_are_refused(onstream, tmp_path):
    told = onstream.refused("es", "update", tmp_path / "model", code=1)
    assert "holds no policy; begin one with `onstream es init" in told


# ----------------------------------------------------------------------------------------- solving


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cartpole_is_solved_by_the_three_commands(onstream, tmp_path, monkeypatch, seed):
    monkeypatch.setenv("SEED", str(seed))
    path, model = EXAMPLE, tmp_path / "model"
    onstream.fine("es", "init", path, model)
    for _ in range(400):
        onstream.fine("es", "sample", path, model, "--episodes", 8, "--seed", seed)
        onstream.fine("es", "update", model)
        if onstream("es", "evaluate", path, model, "--target", 475)[0] == 0:
            return
    pytest.fail("400 updates were not enough")


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cartpole_is_solved_with_four_samplers(onstream, tmp_path, monkeypatch, seed):
    monkeypatch.setenv("SEED", str(seed))
    path, model = EXAMPLE, tmp_path / "model"
    command = [sys.executable, "-m", "onstream", "es", "run", str(path), str(model)]
    command += ["--samplers", "4", "--updates", "400", "--target", "475", "--seed", str(seed)]
    subprocess.run(command, capture_output=True, check=True, timeout=280)
    onstream.fine("es", "evaluate", path, model, "--target", 475)
