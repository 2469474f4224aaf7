"The command line as a person meets it: one line for a mistake, and one's own images through the same notebooks."

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import BIN, TOP, cvlab, environ
from test_pipeline import gone, holder

from cvlab.data.fixtures import photos_folder, tiny_folder

QUICK = [
    "train.epochs=2",
    "data.size=32",
    "train.batch_size=8",
    "evaluate.samples=8",
    "train.threads=1",
]


@pytest.mark.parametrize(
    "words, says",
    [
        (["params", "optim.lrr=1"], "did you mean optim.lr?"),
        (["params", "optim.lr=fast"], "should be a valid number, not 'fast'"),
        (["params", "optim.lr"], "write it as key=value"),
        (["params", "-e", "dfault"], "did you mean default?"),
        (["train", "--data", "/no/such/folder"], "/no/such/folder: no such folder"),
        (["train", "--data", ".ci"], "put each class into a subfolder"),
        (["train", "--data", "IMAGES", "model.name=resnet_18"], "nearest: resnet"),
        (
            ["train", "--data", "IMAGES", "--resume"],
            "no training of the base, seed 0, was begun here",
        ),
        (
            ["train", "--data", "IMAGES", "model.weights=nothing.safetensors"],
            "nothing.safetensors: no such file",
        ),
    ],
)
def test_mistakes_end_in_one_line(words, says, tmp_path):
    words = [tiny_folder(tmp_path / "images") if w == "IMAGES" else w for w in words]
    code, out, err = cvlab(*words, *(["--out", tmp_path / "run"] if words[0] == "train" else []))
    assert code == 1 and says in err and "Traceback" not in err + out
    assert not (tmp_path / "run").exists(), "refused before any work started"
    assert err.strip().splitlines()[-1].startswith("cvlab: ")


def test_outside_the_repository(tmp_path):
    code, _, err = cvlab("params", cwd=tmp_path)
    assert (
        code == 1
        and err
        == f"cvlab: {tmp_path}: no params.yaml here or above; run this inside the repository\n"
    )


def test_light_commands_import_nothing_heavy():
    probe = (
        "import sys, cvlab.cli.main; from cvlab.core.params import resolve; resolve('params.yaml'); "
        "print([m for m in ('torch', 'pandas', 'numpy', 'sklearn', 'fastai', 'papermill') if m in sys.modules])"
    )
    done = subprocess.run(
        [BIN / "python", "-c", probe], cwd=TOP, env=environ(TOP), capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stdout + done.stderr


EPOCHS = "train.epochs=160"  # --fast makes it 40: long enough to be killed in the middle


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A run of one's own images, what it printed, and what git reported before."
    root = tmp_path_factory.mktemp("own")
    before = subprocess.run(
        ["git", "status", "--porcelain"], cwd=TOP, capture_output=True, text=True
    ).stdout
    code, out, err = cvlab(
        "train",
        "--data",
        tiny_folder(root / "it's data"),
        "--out",
        root / "run",
        "--seed",
        3,
        "--fast",
        EPOCHS,
        *QUICK[1:],
    )
    assert code == 0, err
    return root, out, before


def test_own_images_through_the_same_notebooks(trained):
    tmp_path, out, before = trained
    assert len((tmp_path / "run/train/seed-3/results.csv").read_text().splitlines()) == 1 + 40, (
        "--fast: a quarter"
    )
    assert (
        "model      test accuracy" in out
        and "histogram  test accuracy" in out
        and "majority   test accuracy" in out
    )
    assert (
        "Learning curves: " in out
        and "Card: " in out
        and (tmp_path / "run/cards/seed-3/MODEL_CARD.md").exists()
    )
    for f in (
        "prepare/split.csv",
        "train/seed-3/results.csv",
        "evaluate/seed-3/predictions.csv",
        "evaluate/seed-3/evaluate.ipynb",
        "weights/seed-3/best.safetensors",
    ):
        assert (tmp_path / "run" / f).exists(), f
    assert (
        subprocess.run(
            ["git", "status", "--porcelain"], cwd=TOP, capture_output=True, text=True
        ).stdout
        == before
    )


def test_weights_are_measured_and_used(trained):
    root, answer, _ = trained
    code, out, err = cvlab("evaluate", "--run", root / "run")
    assert code == 0 and out.splitlines()[-1].split("  (")[0].split("accuracy ")[1] in answer, (
        err
    )  # the run's own figure
    assert "test set opened (8 images): weights measured by hand" in out
    code, out, err = cvlab("evaluate", "--run", root / "run", "--subset", "val")
    assert code == 0 and "val accuracy" in out, err
    other = tiny_folder(root / "other", n=20, seed=5)
    code, out, err = cvlab("evaluate", "--run", root / "run/weights/seed-3", "--data", other)
    assert code == 0 and "n = 20" in out, out + err
    assert "val or test" in cvlab("evaluate", "--run", root / "run", "--subset", "train")[2]
    (other / "disc" / "0.png").write_bytes(b"no image")
    (other / "a,b.jpg").write_bytes(b"")
    code, out, err = cvlab("predict", "--run", root / "run", other)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and len(rows) == 22 and {r["label"] for r in rows} <= {"disc", "square", ""}, (
        err
    )
    assert [Path(r["path"]).name for r in rows if r["error"]] == ["a,b.jpg", "0.png"] and not err
    assert "no best.json here or below" in cvlab("predict", "--run", root / "other", other)[2]


def of(root, out):
    return [
        "train",
        "--data",
        root / "it's data",
        "--out",
        out,
        "--seed",
        3,
        "--fast",
        EPOCHS,
        *QUICK[1:],
    ]


def test_an_interrupted_training_is_not_overwritten(trained):
    root, answer, _ = trained
    args, stored = of(root, root / "run"), root / "run/train/seed-3/last.safetensors"
    assert (
        "of another training: optim.lr was 0.003 and is 0.1"
        in cvlab(*args, "--resume", "optim.lr=0.1")[2]
    )
    assert (
        "no training of the base, seed 4, was begun here"
        in cvlab(*args, "--resume", "--seed", 4)[2]
    )
    code, out, err = cvlab(*args, "--resume")
    assert code == 0 and out == answer and "to do: nothing; the training is finished" in err
    stored.write_bytes(b"")
    assert "continue with --resume, or remove it" in cvlab(*args)[2]
    code, _, err = cvlab(*args, "--resume")
    assert code == 1 and "is not the state of an interrupted training" in err
    stored.unlink()


def kill_when(seen, out, *args):
    "Start a training and kill it, and its kernel, when `seen()`."
    process = subprocess.Popen(
        [BIN / "cvlab", *map(str, args)],
        cwd=TOP,
        env=environ(TOP),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not seen():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    kernel = holder(out / "train/seed-3")
    os.kill(kernel, signal.SIGKILL)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert gone(kernel)


@pytest.mark.slow
def test_killed_twice_it_ends_in_the_same_bytes(trained, tmp_path):
    "Before the first epoch was kept, and after the second; each time --resume says what is left."
    root, answer, _ = trained
    out, run = tmp_path / "again", tmp_path / "again/train/seed-3"
    args, log, stored = of(root, out), run / "train.log", run / "last.safetensors"
    kill_when((run / "params.yaml").exists, out, *args)
    assert not stored.exists() and (out / "baseline/baseline.ipynb").exists()
    kill_when(lambda: log.exists() and "epoch   2 " in log.read_text(), out, *args, "--resume")
    assert stored.exists() and not (run / "results.csv").exists()
    code, printed, err = cvlab(*args, "--resume")
    assert (
        code == 0
        and "to do: train, evaluate; the training continues" in err
        and "prepare ..." not in err
    ), err

    def results(text):
        return [line for line in text.splitlines() if not line.startswith(("Open: ", "Card: "))]

    assert results(printed) == results(answer), "the same accuracies"
    for f in (
        "weights/seed-3/best.safetensors",
        "weights/seed-3/last.safetensors",
        "train/seed-3/results.csv",
        "evaluate/seed-3/predictions.csv",
    ):
        assert (out / f).read_bytes() == (root / "run" / f).read_bytes(), f
    assert not stored.exists()
    (out / "evaluate/seed-3/evaluate.ipynb").unlink()  # as if killed in the last stage
    code, _, err = cvlab(*args, "--resume")
    assert (
        code == 0 and "to do: evaluate; the training is finished" in err and "train ..." not in err
    ), err


def test_resume_without_a_name(tmp_path):
    code, _, err = cvlab("train", "--data", tmp_path, "--resume")
    assert (
        code == 1
        and err.startswith("cvlab: --resume: name the training with --out")
        and err.count("\n") == 1
    )


def test_names_that_are_no_utf_8_and_files_that_are_none(trained, tmp_path):
    root, *_ = trained
    image, odd = (
        next((root / "it's data" / "disc").iterdir()),
        os.fsencode(tmp_path / "b") + b"\xff.png",
    )
    for copy in (odd, tmp_path / "c蒲.png"):
        shutil.copy(image, copy)
    for pipe in (odd + b".png", tmp_path / "z.png"):
        os.mkfifo(pipe)
    for encoding in ("utf-8:strict", "latin-1:strict"):
        done = subprocess.run(
            [BIN / "cvlab", "predict", "--run", root / "run", tmp_path],
            cwd=TOP,
            capture_output=True,
            env={**environ(TOP), "PYTHONIOENCODING": encoding},
        )
        rows = list(csv.DictReader(io.StringIO(done.stdout.decode(encoding.split(":")[0]))))
        assert done.returncode == 0 and not done.stderr
        last = "c蒲.png" if encoding[0] == "u" else "c\\u84b2.png"
        assert [Path(r["path"]).name for r in rows] == [
            "b\\udcff.png",
            "b\\udcff.png.png",
            last,
            "z.png",
        ]
        assert [r["error"].split(": ")[-1] for r in rows] == [
            "",
            "no ordinary file",
            "",
            "no ordinary file",
        ]


def opened(pipe):
    "The writing end of a pipe; None while nobody reads it."
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def test_ctrl_c_says_a_line(tmp_path):
    "The process waits for torch, which is a pipe here: whoever opens the other end knows that it has come there."
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "torch.py").write_text(f"open({str(tmp_path / 'pipe')!r}).read()")
    here = environ(TOP)

    def heard():  # whoever started us may have been told to ignore it
        return signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        [BIN / "cvlab", "predict", "--run", tmp_path, tmp_path],
        cwd=TOP,
        env=here | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{here.get('PYTHONPATH', '')}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heard,
    )
    while (pipe := opened(tmp_path / "pipe")) is None:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    os.close(pipe)
    assert (
        process.returncode == 130
        and err.startswith("cvlab: stopped by the keyboard; ")
        and err.count("\n") == 1
    )


def test_weights_whose_description_was_edited(trained, tmp_path):
    root, *_ = trained
    shutil.copytree(root / "run/weights/seed-3", tmp_path / "w")
    info = json.loads((tmp_path / "w/best.json").read_text())
    without = {k: v for k, v in info.items() if k != "classes"}
    for edited, says in [
        (without, "no key 'classes'"),
        ({**info, "side": "64"}, "side: should be"),
    ]:
        (tmp_path / "w/best.json").write_text(json.dumps(edited))
        code, out, err = cvlab("predict", "--run", tmp_path / "w", tmp_path)
        assert (
            code == 1
            and f"{tmp_path}/w/best.json: {says}" in err
            and "Traceback" not in err
            and not out
        ), err


def test_evaluate_from_a_subfolder(trained):
    "The run and --data are named from where one stands."
    root, answer, _ = trained
    run, data = (os.path.relpath(root / d, TOP / "nbs") for d in ("run", "it's data"))
    code, out, err = cvlab("evaluate", "--run", run, cwd=TOP / "nbs")
    assert code == 0 and out.splitlines()[-1].split("  (")[0].split("accuracy ")[1] in answer, err
    code, out, err = cvlab("evaluate", "--run", run, "--data", data, cwd=TOP / "nbs")
    assert code == 0, err


def test_real_photographs_go_in(tmp_path):
    folder = photos_folder("dandelion_grass")
    if folder is None:
        pytest.skip(
            "needs real photographs: set CVLAB_PHOTOS to a folder that holds dandelion_grass"
        )
    code, out, err = cvlab(
        "train", "--data", folder, "--out", tmp_path / "run", *QUICK, "train.batch_size=32"
    )
    assert code == 0 and "n = 45" in out, out + err
