"The command line as a person meets it: one line for a mistake, and one's own pictures through the same notebooks."
import csv, io, subprocess
from pathlib import Path

import pytest
from conftest import BIN, TOP, environ
from cvlab.fixtures import photos_folder, tiny_folder

QUICK = ["train.epochs=2", "data.size=32", "train.bs=8", "evaluate.samples=8"]


def cvlab(*words, cwd=TOP):
    done = subprocess.run([BIN/"cvlab", *map(str, words)], cwd=cwd, env=environ(TOP), capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words, says", [
    (["params", "optim.lrr=1"], "did you mean optim.lr?"),
    (["params", "optim.lr=fast"], "should be a valid number, not 'fast'"),
    (["params", "optim.lr"], "write it as key=value"),
    (["params", "-e", "dfault"], "did you mean default?"),
    (["train", "--data", "/no/such/folder"], "/no/such/folder: no such folder"),
    (["train", "--data", ".ci"], "put each class into a subfolder"),
    (["train", "--data", "PICTURES", "model.name=resnet_18"], "nearest: resnet"),
    (["train", "--data", "PICTURES", "model.weights=nothing.safetensors"], "nothing.safetensors: no such file"),
])
def test_mistakes_end_in_one_line(words, says, tmp_path):
    words = [tiny_folder(tmp_path/"pictures") if w == "PICTURES" else w for w in words]
    code, out, err = cvlab(*words, *(["--out", tmp_path/"run"] if words[0] == "train" else []))
    assert code == 1 and says in err and "Traceback" not in err + out
    assert not (tmp_path/"run").exists(), "said before any work started"
    assert err.strip().splitlines()[-1].startswith("cvlab: ")


def test_outside_the_repository(tmp_path):
    code, _, err = cvlab("params", cwd=tmp_path)
    assert code == 1 and err == f"cvlab: {tmp_path}: no params.yaml here or above; run this inside the repository\n"


def test_light_commands_import_nothing_heavy():
    probe = ("import sys, cvlab.cli; from cvlab.core import resolve; resolve('params.yaml'); "
             "print([m for m in ('torch', 'pandas', 'numpy', 'sklearn', 'fastai', 'papermill') if m in sys.modules])")
    done = subprocess.run([BIN/"python", "-c", probe], cwd=TOP, env=environ(TOP), capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A run of one's own pictures, what it printed, and what git said before."
    root = tmp_path_factory.mktemp("own")
    before = subprocess.run(["git", "status", "--porcelain"], cwd=TOP, capture_output=True, text=True).stdout
    code, out, err = cvlab("train", "--data", tiny_folder(root/"it's data"), "--out", root/"run", "--seed", 3, "--fast",
                           "train.epochs=8", *QUICK[1:])
    assert code == 0, err
    return root, out, before


def test_own_pictures_through_the_same_notebooks(trained):
    tmp_path, out, before = trained
    assert len((tmp_path/"run/train/seed-3/results.csv").read_text().splitlines()) == 1 + 2, "--fast: a quarter of the epochs"
    assert "network    test accuracy" in out and "histogram  test accuracy" in out and "majority   test accuracy" in out
    for f in ("prepare/split.csv", "train/seed-3/results.csv", "evaluate/seed-3/predictions.csv",
              "evaluate/seed-3/evaluate.ipynb", "weights/seed-3/best.safetensors"):
        assert (tmp_path/"run"/f).exists(), f
    assert subprocess.run(["git", "status", "--porcelain"], cwd=TOP, capture_output=True, text=True).stdout == before


def test_weights_are_measured_and_used(trained):
    root, said, _ = trained
    code, out, err = cvlab("evaluate", "--run", root/"run")
    assert code == 0 and out.splitlines()[-1].split("  (")[0].split("accuracy ")[1] in said, err # the run's own figure
    assert "test part opened (8 pictures): cvlab evaluate" in out
    code, out, err = cvlab("evaluate", "--run", root/"run", "--part", "val"); assert code == 0 and "val accuracy" in out, err
    other = tiny_folder(root/"other", n=20, seed=5)
    code, out, err = cvlab("evaluate", "--run", root/"run/weights/seed-3", "--data", other)
    assert code == 0 and "n = 20" in out, out + err
    assert "val or test" in cvlab("evaluate", "--run", root/"run", "--part", "train")[2]
    (other/"disc"/"0.png").write_bytes(b"no picture"); (other/"a,b.jpg").write_bytes(b"")
    code, out, err = cvlab("predict", "--run", root/"run", other)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and len(rows) == 22 and {r["label"] for r in rows} <= {"disc", "square", ""}, err
    assert [Path(r["path"]).name for r in rows if r["error"]] == ["a,b.jpg", "0.png"] and not err
    assert "no best.json here or below" in cvlab("predict", "--run", root/"other", other)[2]


def test_an_interrupted_training_is_not_overwritten(trained):
    root, *_ = trained
    args = ["train", "--data", root/"it's data", "--out", root/"run", "--seed", 3]
    assert "no interrupted training of seed 3 here" in cvlab(*args, "--resume")[2]
    (root/"run/train/seed-3/last.safetensors").write_bytes(b"")
    assert "go on with --resume, or remove it" in cvlab(*args)[2]
    code, _, err = cvlab(*args, "--resume", *QUICK)
    assert code == 1 and "is no state of an interrupted training" in err
    (root/"run/train/seed-3/last.safetensors").unlink()


def test_real_photographs_go_in(tmp_path):
    folder = photos_folder("dandelion_grass")
    if folder is None: pytest.skip("needs real photographs: set CVLAB_PHOTOS to a folder that holds dandelion_grass")
    code, out, err = cvlab("train", "--data", folder, "--out", tmp_path/"run", *QUICK, "train.bs=32")
    assert code == 0 and "n = 45" in out, out + err
