"The whole system in a clone: two commands, again, by force, after an edit or a kill. Smoke size, real notebooks, DVC."

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import BIN, clone_into, environ, run_inline, sh

from cvlab.core.io import LabError, Lock, read_json, write_tensors
from cvlab.core.params import read_yaml
from cvlab.data.fixtures import tiny_folder
from cvlab.models.create import create_model
from cvlab.runs.run import smoke_root

SMALL = {
    "size: 64": "size: 32",
    "epochs: 12": "epochs: 2",
    "batch_size: 32": "batch_size: 8",
    "steps: 80": "steps: 20",
    "repeats: 3": "repeats: 2",
    "samples: 16": "samples: 8",
    "planted: 60": "planted: 8",
    "seeds: [0, 1, 2]": "seeds: [0]",
}


def edit(clone, **changes):
    "Replace text in the clone's params.yaml; every piece has to be there."
    path = clone / "params.yaml"
    text = path.read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)


def ran(done):
    return set(re.findall(r"Running stage '(.+?)'", done.stdout))


def state(clone):
    return {f: (clone / f).read_bytes() for f in ("dvc.lock", "README.md", "TRAINING_RESULTS.md")}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    "A repository of its own, with the files git would give a stranger, made small."
    clone = clone_into(tmp_path_factory.mktemp("clone") / "cvlab")
    edit(clone, **SMALL)
    sh(clone, BIN / "cvlab", "runs", "prune")  # the seeds that are no longer asked for
    tiny_folder(clone / "data")
    return clone


@pytest.fixture(scope="module")
def first(clone):
    "Called by its path: nobody has activated the environment."
    env = environ(clone)
    env["PATH"] = os.pathsep.join(p for p in env["PATH"].split(os.pathsep) if Path(p) != BIN)
    return subprocess.run(
        [BIN / "cvlab", "repro"], cwd=clone, env=env, check=True, stdout=subprocess.PIPE, text=True
    )


def test_first_run_goes_through(clone, first):
    stages = read_yaml(clone / "dvc.yaml")["stages"]
    assert {s.split("@")[0] for s in ran(first)} == set(stages)
    for name in ("default", "augmented", "lr_too_high"):
        assert re.search(rf"^{name} seed 0: other parameters", first.stdout, re.M)
    assert "Open: README.md, TRAINING_RESULTS.md, runs/compare/compare.ipynb" in first.stdout
    assert re.search(r"^ *[\d.]+ s  runs/train/lr_too_high/seed-0/train.ipynb", first.stdout, re.M)


def test_executed_notebooks_are_free_of_this_machine(clone, first):
    for nb in (clone / "runs").rglob("*.ipynb"):
        text = nb.read_text()
        assert str(clone) not in text and str(Path.home()) not in text, nb
        assert not re.search(r"ipykernel_\d|0x[0-9a-f]{8}|\d{4}-\d\d-\d\dT\d\d:", text), nb
        assert nb.stat().st_size < 300_000, nb


def test_again_there_is_nothing_to_do(clone, first):
    done = sh(clone, BIN / "cvlab", "repro")
    assert not ran(done) and not re.search(r" s  runs/", done.stdout)


@pytest.mark.slow
def test_forced_again_gives_the_same_bytes(clone, first):
    "One stage of each kind; the whole pipeline by force is what `make repro` on a fresh clone does."
    before = state(clone)
    sh(clone, "git", "add", "runs")
    kinds = [
        "prepare",
        "baseline",
        "leakage",
        "lr_find",
        "train@default-0",
        "evaluate@default-0",
        "crossval",
        "interpret",
        "compare",
        "report",
    ]
    assert ran(sh(clone, BIN / "dvc", "repro", "--force", "--single-item", *kinds)) == set(kinds)
    assert state(clone) == before
    assert sh(clone, "git", "diff", "--name-only", "runs").stdout == "", (
        "not even the files that no hash covers"
    )


def test_a_range_test_without_a_curve_says_so(tmp_path, capsys):
    state = create_model("small_cnn", 2).state_dict()
    write_tensors(tmp_path / "nan.safetensors", {k: v * float("nan") for k, v in state.items()})
    root, overrides = smoke_root("lr_find")
    nan = [f"model.weights={tmp_path / 'nan.safetensors'}", "model.normalise=half"]
    run_inline("lr_find", root / "lr_find", [*overrides, *nan])
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith("No interval: repeat 0: no curve: the first loss is not")
    )
    answer = read_json(root / "lr_find" / "lr.json")
    assert answer["lr"] is None and len(answer["notes"]) == 2
    assert (root / "lr_find" / "curves.csv").read_text() == "lr,loss,repeat\n"


@pytest.mark.slow
def test_editing_one_experiment_runs_it_and_what_compares_it(clone, first):
    edit(clone, **{"optim: {lr: 10.0}": "optim: {lr: 5.0}"})
    nets = {
        f: f.stat().st_mtime_ns
        for f in (clone / "runs" / "weights" / "crossval").rglob("*.safetensors")
    }
    assert ran(sh(clone, BIN / "cvlab", "repro")) == {
        "train@lr_too_high-0",
        "evaluate@lr_too_high-0",
        "crossval",
        "compare",
        "report",
    }
    assert nets == {f: f.stat().st_mtime_ns for f in nets}, (
        "folds looked at the experiments and trained nothing again"
    )


def test_a_figure_setting_runs_nothing(clone, first):
    ini = clone / "settings.ini"
    ini.write_text(ini.read_text().replace("dpi = 100", "dpi = 90"))
    assert not ran(sh(clone, BIN / "cvlab", "repro"))
    ini.write_text(ini.read_text().replace("dpi = 90", "dpi = 100"))


def test_an_orphan_is_named_and_pruned(clone, first):
    shutil.copytree(
        clone / "runs/evaluate/lr_too_high",
        clone / "runs/evaluate/gone",
        ignore=shutil.ignore_patterns(".lock"),
    )
    done = sh(clone, BIN / "cvlab", "repro", check=False)
    assert done.returncode and "cvlab runs prune" in done.stderr and not ran(done)
    assert (
        "gone" in sh(clone, BIN / "cvlab", "runs", "prune").stdout
        and not (clone / "runs/evaluate/gone").exists()
    )
    sh(clone, BIN / "cvlab", "repro")


# Kills. A long training is started in the background, something is killed, and the next command has to understand
# what it finds.


def start(clone, *command):
    return subprocess.Popen(
        [str(c) for c in command],
        cwd=clone,
        env=environ(clone),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_epoch(run, started):
    "Until the run's log has an epoch that is newer than `started`."
    log = run / "train.log"
    for _ in range(600):
        if log.exists() and log.stat().st_mtime >= started and "epoch" in log.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"{log}: no epoch after a minute")


def holder(run):
    "Pid of the kernel that works in a run."
    return int((run / ".lock").read_text())


def gone(pid):
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if (
            Path(f"/proc/{pid}/stat").exists()
            and Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        ):
            return True
        time.sleep(0.1)
    return False


LONG = {"  lr_too_high:\n": "  lr_too_high:\n    train: {epochs: 100000}\n"}


@pytest.fixture
def long_run(clone, first):
    "dvc trains the experiment `lr_too_high` for very long, over whatever an earlier kill left; afterwards everything is dead."
    started, run = time.time(), clone / "runs/train/lr_too_high/seed-0"
    dvc = start(clone, BIN / "dvc", "repro", "train@lr_too_high-0")
    wait_for_epoch(run, started)
    kernel = holder(run)
    yield dvc, run
    for kill, pid in ((os.killpg, dvc.pid), (os.kill, kernel)):
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    assert gone(kernel)
    dvc.wait()


@pytest.fixture(scope="module")
def settled(clone, first):
    "The state before the kills; from here on `lr_too_high` trains for very long."
    sh(clone, BIN / "cvlab", "repro")
    before = state(clone)
    edit(clone, **LONG)
    return before


def parent(pid):
    "Pid of the process that started another one: papermill for a kernel, in any width of the terminal."
    return int(
        subprocess.run(
            ["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True, check=True
        ).stdout
    )


def second(clone):
    "Somebody else tries to train the same run."
    return sh(
        clone,
        BIN / "papermill",
        "--engine",
        "cvlab",
        "nbs/pipeline/train.ipynb",
        "runs/train/lr_too_high/seed-0/train.ipynb",
        "-p",
        "experiment",
        "lr_too_high",
        "-p",
        "out",
        "runs/train/lr_too_high/seed-0",
        check=False,
    )


def test_killed_kernel_fails_the_stage(clone, settled, long_run):
    dvc, run = long_run
    os.kill(holder(run), signal.SIGKILL)
    assert dvc.wait(60) != 0 and not (run / "results.csv").exists()
    Lock(run).release()  # free at once


def refused(done, run):
    return done.returncode == 1 and done.stderr.strip().splitlines()[-1] == (
        f"cvlab: {run}: process {holder(run)} is working here; wait for it, or stop it with `kill {holder(run)}`"
    ).replace(f"{run.parents[3]}/", "")


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["papermill", "dvc"])
def test_two_at_once_and_a_kernel_that_outlives_its_parents(victim, clone, settled, long_run):
    dvc, run = long_run
    kernel = holder(run)
    if victim == "dvc":
        assert refused(second(clone), run) and dvc.poll() is None, (
            "the second is refused in one line, the first goes on"
        )
    os.kill(dvc.pid if victim == "dvc" else parent(kernel), signal.SIGKILL)
    time.sleep(3)  # a kernel looks for its parent once a second
    try:
        Lock(run).release()
    except LabError:
        assert not gone(kernel) and refused(second(clone), run)
    else:
        assert gone(kernel), "the folder is free only when nobody writes to it"


@pytest.mark.slow
def test_after_the_kills_the_pipeline_ends_where_it_would_have(clone, settled):
    edit(clone, **{new: old for old, new in LONG.items()})
    left = clone / "runs/train/lr_too_high/seed-0/last.safetensors"
    done = sh(clone, BIN / "cvlab", "repro", check=False)
    assert (
        done.returncode
        and "is of another training: train.epochs was 100000" in done.stdout + done.stderr
    )
    left.unlink()
    sh(clone, BIN / "cvlab", "repro")
    assert state(clone) == settled and not left.exists()
