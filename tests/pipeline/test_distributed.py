"Training in several processes: kills, restarts, resume, torchrun."

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import TOP, environ

from cvlab.data.fixtures import SMOKE, tiny_folder

BASE = [*SMOKE, "leakage.extent=off", "train.threads=1"]
# the files of a training that have to be the same bytes
FILES = "train/seed-0/results.csv", "train/seed-0/train.log", "weights/seed-0/best.safetensors"


def cvlab(*words, before=(), **env):
    "Start the program in the background."
    command = [*before, *([] if before else [sys.executable]), "-m", "cvlab", *map(str, words)]
    return subprocess.Popen(
        command,
        cwd=TOP,
        env=environ(TOP) | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*words, status=0, **kw):
    process = cvlab(*words, **kw)
    text = process.communicate(timeout=900)[0]
    assert process.returncode == status, text
    return text


def train_words(root, out, *more):
    own = ["--data", root / "data", "--recipe", "params", "--out", root / out]
    return ["train", *own, *BASE, *more]


def results(root, out):
    return [hashlib.sha256((root / out / f).read_bytes()).hexdigest() for f in FILES]


def followers(root):
    "Process numbers of the ranks that train on data in a folder (their parent's command names it)."
    text = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True).stdout
    lines = [line.split(None, 1) for line in text.splitlines()]
    return {int(pid) for pid, args in lines if "cvlab.training.distributed" in args}


def wait_for(found, seconds=600):
    until = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "Images, and an undisturbed training in two processes."
    root = tmp_path_factory.mktemp("lab")
    tiny_folder(root / "data", 48)
    run(*train_words(root, "whole", "train.processes=2", "train.epochs=4"))
    return root


def test_mistakes_are_refused_before_any_work(tmp_path):
    tiny_folder(tmp_path / "data", 48)
    for more, says in {
        "train.processes=16": "a batch of 8 images has none for some of them",
        "train.processes=0": "train.processes: should be greater than or equal to 1",
        "train.sync_bn=true": "nothing to synchronise",
    }.items():
        text = run(*train_words(tmp_path, "out", more), status=1)
        assert says in text and text.count("\n") == 1, text
    env = dict(WORLD_SIZE="2", RANK="0", MASTER_ADDR="127.0.0.1")
    text = run(*train_words(tmp_path, "out", "train.processes=2"), status=1, **env)
    assert "MASTER_ADDR and MASTER_PORT are missing" in text, text
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_killed_process_is_replaced(lab):
    "The training ends with the bytes of the undisturbed one."
    before = followers(lab)
    process = cvlab(*train_words(lab, "replaced", "train.processes=2", "train.epochs=4"))
    state = lab / "replaced" / "train" / "seed-0" / "last.safetensors"
    wait_for(state.exists)
    for pid in followers(lab) - before:
        os.kill(pid, signal.SIGKILL)
    text = process.communicate(timeout=900)[0]
    assert process.returncode == 0, text
    assert "process 2 of the 2 that train was killed (SIGKILL)" in text
    assert results(lab, "replaced") == results(lab, "whole")


@pytest.mark.slow
def test_the_leader_is_killed_and_resumed(lab):
    "Nobody stays behind, another number of processes is refused, and the bytes are the same."
    words = train_words(lab, "resumed", "train.processes=2", "train.epochs=4")
    before = followers(lab)
    process = cvlab(*words)
    state = lab / "resumed" / "train" / "seed-0" / "last.safetensors"
    wait_for(state.exists)
    process.kill()
    process.wait()
    wait_for(lambda: not followers(lab) - before, 30)
    other = train_words(lab, "resumed", "train.processes=1", "train.epochs=4", "--resume")
    assert "train.processes was 2 and is 1; name another --out" in run(*other, status=1)
    run(*words, "--resume")
    assert results(lab, "resumed") == results(lab, "whole")


def torchrun(n, *more):
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(n),
        *more,
    ]


@pytest.mark.slow
def test_torchrun_gives_the_same_bytes(lab):
    "The ranks of a launcher; the wrong number of them is refused."
    text = run(*train_words(lab, "wrong", "train.processes=3"), before=torchrun(2), status=1)
    assert "cvlab: train.processes=3: 2 processes were started (WORLD_SIZE)" in text, text
    words = train_words(lab, "launched", "train.processes=2", "train.epochs=4")
    run(*words, before=torchrun(2))
    assert results(lab, "launched") == results(lab, "whole")


@pytest.mark.slow
def test_torchrun_starts_a_killed_training_again(lab):
    words = train_words(lab, "elastic", "train.processes=2", "train.epochs=4")
    process = cvlab(*words, before=torchrun(2, "--max-restarts", "2"))
    state = lab / "elastic" / "train" / "seed-0" / "last.safetensors"
    wait_for(state.exists)
    ranks = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout
    children = [int(a) for a, b in map(str.split, ranks.splitlines()) if int(b) == process.pid]
    os.kill(max(children), signal.SIGKILL)
    text = process.communicate(timeout=900)[0]
    assert process.returncode == 0, text
    assert results(lab, "elastic") == results(lab, "whole")


@pytest.mark.slow
def test_what_ran_is_recorded(lab):
    from cvlab.core.params import plain, read_yaml

    params = plain(read_yaml(lab / "whole" / "train" / "seed-0" / "params.yaml"))
    assert params["effective"]["train"]["processes"] == 2
    notebook = json.loads((lab / "whole" / "train" / "seed-0" / "train.ipynb").read_text())
    printed = json.dumps([c.get("outputs") for c in notebook["cells"]])
    assert "rank0" not in printed and "Warning" not in printed and "Gloo" not in printed


@pytest.mark.slow
@pytest.mark.parametrize("command, table", [("crossval", "oof.csv"), ("tune", "tune/trials.csv")])
def test_folds_and_trials_train_in_two_processes(lab, command, table):
    "The numbers of one process, up to rounding, with dropout off and batch norm over the whole batch."
    space = "tune.space={optim.lr: {low: 1.0e-3, high: 1.0e-2, log: true}}"
    tuning = "tune.trials=2 tune.epochs=0 tune.method=random tune.pruner=none tune.finals=1".split()
    extra = ["crossval.folds=2"] if command == "crossval" else [space, *tuning]
    plain = ["model.dropout=0.0", "augment.hflip=0.0", "optim.name=sgd", *extra]
    found = []
    for n, more in ((1, []), (2, ["train.processes=2", "train.sync_bn=true"])):
        out = lab / f"{command}-{n}"
        words = [command, "--data", lab / "data", "--recipe", "params", "--out", out]
        run(*words, *BASE, *plain, *more)
        found.append(pd.read_csv(next(out.rglob(table))))
    numbers = [t.select_dtypes("number").to_numpy() for t in found]
    np.testing.assert_allclose(*numbers, rtol=1e-3, atol=1e-4)
