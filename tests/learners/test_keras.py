"""The Keras learner on every backend, each in a process of its own: Keras takes one a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BACKENDS = ("torch", "jax", "tensorflow")

# What is most worth compiling for: JAX and TensorFlow take long for each new model.
QUICK = (
    "test_it_keeps_the_law[going_on_from_a_state",
    "test_it_keeps_the_law[a_batch_that_is_not_finite",
    "test_it_keeps_the_law[the_exported",
    "learner[binary",
    "functional_model",
    "what_is_not_in_it",
    "reaches_files",
    "changed_programs",
)


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
        "tests/learners/keras_backend.py",
        *which,
    ]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-5_000:]
    assert " passed" in ran.stdout


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_learner_holds_on(backend, tmp_path):
    run_tests(backend, tmp_path, *(() if backend == "torch" else ("-k", " or ".join(QUICK))))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_learner_holds_in_everything_on(backend, tmp_path):
    run_tests(backend, tmp_path, "-m", "long or not long")
