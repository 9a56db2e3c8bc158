"""The pages on learners: every block of Python runs, and every command."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def run(folder, *command):
    ran = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_learner_of_the_page_keeps_the_laws(tmp_path):
    (tmp_path / "test_page.py").write_text("\n\n".join(blocks("learners.md", "python")))
    out = run(tmp_path, "-m", "pytest", "-s", "-W", "error", "test_page.py")
    assert "20 passed" not in out
    assert "18 passed, 2 skipped" in out
    assert "learning_teaches holds" in out
    assert "the_exported_predicts_the_same it exports nothing" in out


@pytest.mark.long
def test_the_commands_and_the_model_of_the_page_on_keras_run(tmp_path):
    install, commands, train = blocks("keras.md", "sh")
    assert install.startswith("pip install")
    for line in commands.splitlines():
        name, *arguments = shlex.split(line)
        assert name == "onstream"
        out = run(tmp_path, "-m", "onstream", *arguments)
    assert "auc 0." in out
    views, text = blocks("keras.md", "python")
    run(tmp_path, "-c", views)
    (tmp_path / "taste.py").write_text(text)
    assert train == "onstream train taste.py\n"
    assert "10,000 examples learned" in run(tmp_path, "-m", "onstream", "train", "taste.py")
