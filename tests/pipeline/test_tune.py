"Studies as a person runs them: one command, killed, continued, shared, refused."

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import TOP, cvlab, environ

from cvlab.cli import api
from cvlab.core.io import LabError, read_json
from cvlab.core.params import resolve
from cvlab.data.fixtures import tiny_folder
from cvlab.data.samples import find_samples, read_split, split_samples, write_split
from cvlab.runs.paths import RunPaths
from cvlab.runs.run import yaml_text
from cvlab.studies.tune import Study, ended, open_study, study_hash
from cvlab.studies.workers import help_out

SPACE = "tune.space={optim.lr: {low: 1.0e-4, high: 0.3, log: true}, augment.hflip: [0.0, 0.5]}"
SMALL = (
    "data.size=32 train.epochs=2 train.batch_size=8 train.threads=1 model.name=small_cnn model.weights=null "
    "schedule.warmup=0.25 leakage.extent=off tune.epochs=0 tune.pruner=none tune.finals=1"
).split()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("images") / "own", n=40)


def tune(images, out, *words):
    return cvlab("tune", "--data", images, "--out", out, *SMALL, *words)


@pytest.mark.slow
def test_one_command_finds_a_winner_and_goes_on(images, tmp_path):
    "A first study, the same again, one with more trials, and one that is another."
    out = tmp_path / "study"
    code, said, err = tune(images, out, "--trials", 3, "--method", "random")
    assert code == 0, err
    assert "won:" in said and "tune.ipynb" in said
    assert "recipe.yaml" in err  # what was chosen for these images is said
    first = {
        t: (out / "tune/trials" / t / "trial.json").read_bytes() for t in ("0000", "0001", "0002")
    }
    space = read_json(out / "tune/trials/study.json")["tune"]["space"]
    assert {"optim.lr", "augment.rotate"} <= set(space)  # around the recipe

    code, _, err = tune(images, out, "--trials", 3, "--method", "random")
    assert code == 0 and "the study is complete; name more trials" in err

    code, _, err = tune(images, out, "--trials", 4, "--method", "random")
    assert code == 0, err
    assert len([*(out / "tune/trials").glob("0*/trial.json")]) == 4
    assert all((out / "tune/trials" / t / "trial.json").read_bytes() == b for t, b in first.items())

    code, _, err = tune(images, out, "--trials", 4, "--method", "random", SPACE)
    assert code and "is another study (tune.space has changed)" in err
    assert (out / "tune/trials/0003/trial.json").exists()  # nothing was removed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tune.space={}"], "tune.space"),
        (["tune.space={optim.rate: [1, 2]}"], "optim.rate: no such parameter, did you mean"),
        (
            ["tune.space={optim.mom: {low: 0.5, high: 1.5}}"],
            "optim.mom: should be less than 1, not 1.5",
        ),
        (["tune.space={optim.lr: {low: 2, high: 1}}"], "low = 2 has to be below high = 1"),
        (["tune.space={split.val: [0.1, 0.2]}"], "the same for all trials"),
        (["tune.space={train.unfreeze_every: [0, 1]}"], "there is nothing to unfreeze"),
        ([SPACE, "--method", "grid"], "optim.lr: a grid needs a list of choices, or a step"),
        ([SPACE, "--method", "bayes"], "tune.method"),
        ([SPACE, "--executor", "dask"], "tune.executor"),
        (["tune.folds=1"], "one fold leaves nothing to train on"),
        (["tune.folds=50"], "tune.folds=50: class"),
        (["tune.members=2", "--method", "population"], "set it to 4 or more"),
        ([SPACE, "--budget", "soon"], "--budget soon: a time such as 10m or 1h"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(images, tmp_path, words, says):
    options = dict(zip([w[2:] for w in words[1::2]], words[2::2]))
    with pytest.raises(LabError, match=re.escape(says)):
        api.tune(images, tmp_path / "out", overrides=[*SMALL, words[0]], **options)
    assert not (tmp_path / "out" / "tune").exists()


def test_joining_nothing_is_one_line(tmp_path):
    code, _, err = cvlab("tune", "--join", tmp_path)
    assert code and "no study here; `cvlab tune --out" in err
    code, _, err = cvlab("tune", "--join", tmp_path, "--trials", 3)
    assert code and "--join: takes the study as it was begun" in err


def begun(root, images, *overrides):
    "A study as `cvlab tune` begins it."
    p = resolve(TOP / "params.yaml", "", [*SMALL, SPACE, f"data.path={images}", *overrides])
    run = RunPaths(root)
    for stage in ("tune", "prepare"):
        run.stage(stage).mkdir(parents=True)
    write_split(run.split, split_samples(find_samples(images)))
    (run.stage("tune") / "params.yaml").write_text(
        yaml_text(dict(seed=0, requested=p.model_dump()))
    )
    trials = run.stage("tune") / "trials"
    study = Study(p, read_split(run.split), images, trials, root, log=lambda line: None)
    open_study(study)
    return study


def worker(root):
    code = f"from cvlab.studies.workers import help_out; help_out({str(root)!r})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=TOP,
        env=environ(TOP),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    err = process.communicate(timeout=600)[1]
    assert process.returncode == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("method, n", [("random", 6), ("population", 16)])
def test_three_processes_share_a_study(images, tmp_path, method, n):
    "Every trial once, and the same trials as one process makes; a generation waits for the one before."
    how = [f"tune.method={method}", "tune.trials=6", "train.epochs=8", "tune.every=2"]
    alone = begun(tmp_path / "alone", images, *how)
    help_out(tmp_path / "alone")
    many = begun(tmp_path / "many", images, *how)
    for process in [worker(tmp_path / "many") for _ in range(3)]:
        finished(process)
    assert [t.number for t in ended(many)] == [*range(n)]
    assert study_hash(many) == study_hash(alone)


@pytest.mark.slow
@pytest.mark.parametrize("method, epochs", [("tpe", 24), ("population", 60)])
def test_killed_at_random_moments(images, tmp_path, method, epochs):
    "SIGKILL at twenty random moments; the study ends with the bytes of one that was left alone."
    how = [
        f"tune.method={method}",
        "tune.trials=60",
        f"train.epochs={epochs}",
        "tune.every=3",
        "tune.pruner=asha",
    ]
    alone = begun(tmp_path / "alone", images, *how)
    finished(worker(tmp_path / "alone"))
    again, kills = begun(tmp_path / "killed", images, *how), 0
    draw = random.Random(0)
    while kills < 20:
        victim = worker(tmp_path / "killed")
        known = len([*again.folder.rglob("last.safetensors")])
        until = time.monotonic() + 60  # let it load its libraries and reach a trial
        while (
            victim.poll() is None
            and time.monotonic() < until
            and len([*again.folder.rglob("last.safetensors")]) == known
        ):
            time.sleep(0.02)
        time.sleep(draw.random() * 0.4)
        if victim.poll() is not None:
            break  # complete
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        kills += 1
    finished(worker(tmp_path / "killed"))
    assert kills == 20
    assert study_hash(again) == study_hash(alone), f"after {kills} kills"


def by_executor(name):
    """The program that runs a study of this folder by an executor and says what it did."""
    cluster = ', "local"' if name == "slurm" else ""  # submitit's processes on this machine
    run = "from cvlab.studies import workers as w; study = w.joined(sys.argv[1]); w.open_study(study); "
    return f"import sys; from pathlib import Path; {run}w._by_{name}(study, Path(sys.argv[1]), lambda: None{cluster})"


def worker_of(folder, number, run):
    """The process that holds a trial, once it has stored the state of an epoch."""
    until = time.monotonic() + 120
    while not (folder / f"{number:04}" / "last.safetensors").exists():
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < until, "no trial began"
        time.sleep(0.02)
    return int((folder / f"{number:04}" / ".lock").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_an_executor_retries_what_was_killed(images, tmp_path, name):
    "Two processes, one of them killed: each trial once, and the bytes of a study that was left alone."
    pytest.importorskip(dict(ray="ray", slurm="submitit")[name])
    how = ["tune.method=random", "tune.trials=5", "train.epochs=30", "tune.workers=2"]
    alone = begun(tmp_path / "alone", images, *how)
    finished(worker(tmp_path / "alone"))
    study = begun(tmp_path / name, images, *how, f"tune.executor={name}")
    command = [sys.executable, "-c", by_executor(name), str(tmp_path / name)]
    run = subprocess.Popen(
        command,
        cwd=TOP,
        env=environ(TOP),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    victim = worker_of(study.folder, 0, run)
    assert victim != run.pid  # the head starts, it does not train
    os.kill(victim, signal.SIGKILL)
    said = run.communicate(timeout=600)[0]
    assert run.returncode == 0, said
    assert [t.number for t in ended(study)] == [*range(5)]
    assert study_hash(study) == study_hash(alone)
    assert "Traceback" not in said and said.count("\n") <= (2 if name == "ray" else 0), said
