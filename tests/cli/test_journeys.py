"""The two journeys of the page on trackers, walked: from the first tracked run to a registered model.

The quick test reads every command of the page and looks whether it exists; the slow one types them in a clone, with
few drawn images and short trainings. Left out: the pages of MLflow, which need an environment of 850 MB, and
`make compare-trackers`, whose notebook has a quick test of its own."""

import re
import shlex
import subprocess

import pytest
from conftest import TOP, clone_into, cvlab, environ
from first_steps import blocks

from cvlab.data.fixtures import tiny_folder
from cvlab.trackers.base import installed

PAGE = TOP / "nbs/pages/site/trackers.md"
SHORT = "train.epochs=2 train.batch_size=8 data.size=32 train.threads=1"
FOLDS = "train.epochs=1 train.batch_size=8 data.size=32 train.threads=1 crossval.folds=2"


def commands(text):
    "The commands of a page in their order, those between backticks included."
    where = [(at, line) for at, lines in blocks(text) for line in lines]
    inline = re.finditer(r"`((?:make|cvlab) [^`]+)`", re.sub(r"(?ms)^```.*?^```$", _blank, text))
    where += [(m.start(), " ".join(m[1].split())) for m in inline]
    return [c for _, c in sorted(where, key=lambda w: w[0]) if c.startswith(("make ", "cvlab "))]


def _blank(m):
    return " " * len(m[0])


def test_every_command_of_the_page_exists():
    "A target of the Makefile, or a command of `cvlab` that takes the options that are named."
    makefile, found = (TOP / "Makefile").read_text(), commands(PAGE.read_text())
    assert len(found) >= 14 and found[:2] == ["make data", "make mlflow-quick"]
    for command in found:
        program, name, *rest = shlex.split(command)
        if program == "make":
            assert re.search(rf"^{name}:", makefile, re.M), command
            assert all(re.match(r"[A-Z]+=", w) for w in rest), command
            continue
        words = [name, rest[0]] if name == "registry" else [name]
        code, said, _ = cvlab(*words, "--help")
        assert code == 0, command
        assert all(w in said for w in rest if w.startswith("--")), command


@pytest.fixture
def clone(tmp_path):
    "A clone with this environment as its own, and a home with photos."
    there = clone_into(tmp_path / "cvlab")
    (there / ".venv/bin").mkdir(parents=True)
    (there / ".venv/.installed").touch()  # which is what `make install` asks
    pip = there / ".venv/bin/pip"  # nothing is installed: the programs of this environment are used
    pip.write_text("#!/bin/sh\n")
    pip.chmod(0o755)
    tiny_folder(tmp_path / "photos", n=60)
    return there


def typed(clone, command):
    env = environ(clone) | dict(HOME=str(clone.parent))
    done = subprocess.run(
        ["bash", "-c", command], cwd=clone, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    not (installed("mlflow") and installed("wandb")), reason="mlflow or wandb is not installed"
)
def test_the_journeys_are_walked(clone):
    "The first user's: data, two tracked runs, a look. The advanced one's: train, folds, register, promote."
    own = "DATA=~/photos OUT=$HOME/run"
    told = typed(clone, f"make mlflow-quick {own} ARGS='--recipe params {SHORT}'")
    assert "mlflow: " in told and " rows and " in told
    assert "wandb: " in typed(clone, f"make wandb-quick {own} ARGS='--recipe params {SHORT}'")
    assert "read back: " in typed(clone, "cvlab track ~/run-mlflow-quick --to mlflow --check")
    assert "wandb: " in typed(clone, "cvlab track ~/run-mlflow-quick --to wandb")
    typed(clone, f"make train {own} EPOCHS=3 ARGS='--recipe params model.name=xray_cnn {SHORT}'")
    told = typed(
        clone, f"make compare {own} ARGS='--recipe params --track mlflow {FOLDS}' PRESET=quick_test"
    )
    assert "runs in " in told
    assert "nothing is waiting" in typed(clone, "cvlab track sync")
    assert "registered" in typed(clone, "cvlab registry add ~/run --name photos --force")
    typed(clone, 'cvlab registry promote photos 1 --to production --reason "the first"')
    assert "production" in typed(clone, "cvlab registry list")
