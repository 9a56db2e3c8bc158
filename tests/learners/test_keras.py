"""The Keras learner on every backend, each in a process of its own: Keras takes one a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BACKENDS = ("torch", "jax", "tensorflow")

# What differs between backends most, and compiles fast; models take long to compile.
QUICK = {
    "torch": ("keeps_the_law[", "learner[binary", "functional_model", "plain]", "no_weights", "in_words"),
    "jax": ("keeps_the_law[the_exported", "learner[binary", "what_is_not_in_it"),
    "tensorflow": ("keeps_the_law[going_on_from", "keeps_the_law[the_exported", "reaches_files"),
}


def run_tests(backend, folder, *which):
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        # What TensorFlow says of the processor is not our output; what JAX compiled once is there the next time.
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-o",
        "python_files=backend_*.py",
        "tests/learners/keras_backend",
        *which,
    ]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-5_000:]
    assert " passed" in ran.stdout


@pytest.mark.parametrize(
    "backend", ["torch", *(pytest.param(name, marks=pytest.mark.long) for name in ("jax", "tensorflow"))]
)
def test_the_learner_holds_on(backend, tmp_path):
    run_tests(backend, tmp_path, "-m", "not long", "-k", " or ".join(QUICK[backend]))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_learner_holds_in_everything_on(backend, tmp_path):
    run_tests(backend, tmp_path, "-m", "long or not long")
