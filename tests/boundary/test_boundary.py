"What strangers send: one place opens it, and each kind of bad file is one line, soon."

import ast
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import BIN, TOP, environ
from conftest import cvlab as cvlab_here
from PIL import Image

from cvlab.core.boundary import FORMATS, opens
from cvlab.data.archives import SUFFIXES
from cvlab.data.fixtures import tiny_folder
from cvlab.models.create import create_model, save_model

# opens files: the modules that may, and what they open
OPENERS = {
    "Image.open": {
        "core.boundary": "files from elsewhere",
        "evaluation.leakage": "a JPEG that was made in memory",
        "bench.bench": "images that the benchmark drew",
        "bench.frameworks": "images that the benchmark drew",
        "trackers.tensorboard": "images in the event files that it wrote",
    },
    "YAML": {
        "core.params": "files from elsewhere",
        "runs.run": "writes",
        "evidence.coverage": "text that the register of stages makes",
    },
    "load_file": {"core.boundary": "files from elsewhere", "bench.frameworks": "its own weights"},
    "safe_open": {"core.boundary": "files from elsewhere", "training.callbacks": "after a check"},
    **dict.fromkeys(("yaml.load", "yaml.safe_load", "torch.load", "pickle.load", "eval"), {}),
}


def calls(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).removeprefix("PIL.")


def test_only_the_boundary_opens_images_weights_and_yaml():
    found = {}
    for path in (TOP / "cvlab").rglob("*.py"):
        for name in {*calls(path)} & {*OPENERS}:
            found.setdefault(name, set()).add(f"{path.parent.name}.{path.stem}")
    for name, modules in OPENERS.items():
        assert found.get(name, set()) == set(modules), name


def test_formats_and_suffixes_agree():
    assert SUFFIXES <= {s for suffixes in FORMATS.values() for s in suffixes}


def cvlab(*words, seconds=60, **kw):
    "The command, at most so many seconds: what hangs fails."
    done = subprocess.run(
        [BIN / "cvlab", *map(str, words)],
        cwd=kw.pop("cwd", TOP),
        env=environ(TOP),
        capture_output=True,
        text=True,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def refused(*words, says, hangs=False, **kw):
    "One line and no traceback; what might hang gets a process of its own."
    code, out, err = (cvlab if hangs else cvlab_here)(*words, **kw)
    last = [line for line in err.splitlines() if line.startswith("cvlab: ")]
    assert code == 1 and len(last) == 1 and says in last[0] and len(err) < 1500, (code, err)


def test_a_check_survives_links_pipes_and_programs(tmp_path):
    folder = tiny_folder(tmp_path / "tiny")
    (folder / "disc" / "loop.png").symlink_to("loop.png")
    (folder / "disc" / "away.png").symlink_to("/etc/hostname")
    os.mkfifo(folder / "disc" / "pipe.png")
    Image.new("RGB", (8, 8)).save(folder / "disc" / "script.png", "EPS")
    code, out, err = cvlab("data", "check", folder, "--full")
    assert code == 1 and "48 images of 2 classes can be used" in out
    for line in (
        "disc/loop.png: cannot be opened: Too many levels of symbolic links",
        "disc/away.png: a link that leads out of the folder",
        "disc/pipe.png: no ordinary file",
        "disc/script.png: no image inside",
    ):
        assert line in out, out


def test_no_image_starts_ghostscript(tmp_path):
    "An EPS under each suffix; a program called gs would leave a mark."
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexit 1\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    folder = tiny_folder(tmp_path / "tiny")
    for suffix in SUFFIXES:
        Image.new("RGB", (8, 8)).save(folder / "disc" / f"x{suffix}", "EPS")
    env = environ(TOP) | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{environ(TOP)['PATH']}"}
    done = subprocess.run(
        [BIN / "cvlab", "data", "check", folder, "--full"],
        cwd=TOP,
        env=env,
        capture_output=True,
        text=True,
    )
    refused = len([s for s in SUFFIXES if s not in FORMATS["HEIF"] or opens("HEIF")])
    assert done.stdout.count("no image inside") == refused, done.stdout
    assert not (tmp_path / "started").exists()


def test_large_images_are_not_decoded_at_a_time(tmp_path):
    "Eight palette images of 88 megapixels, 90 KB each: their pixels stay below a gigabyte."
    folder = tmp_path / "large" / "disc"
    folder.mkdir(parents=True)
    for i in range(8):
        Image.new("P", (9390, 9390), i).save(folder / f"{i}.png")
    code = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from cvlab.data.importers import look
unit = 1 if sys.platform == "darwin" else 1024
def mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
before = mb()
with ThreadPoolExecutor(8) as pool:
    seen = list(pool.map(look, sorted(Path(sys.argv[1]).iterdir())))
assert all(s["width"] == 9390 and s["verdict"] == "converted" for s in seen), seen
print(mb() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, folder], env=environ(TOP), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1000


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "A folder of weights, and an image."
    folder = tmp_path_factory.mktemp("model")
    tiny_folder(folder / "tiny")
    torch.manual_seed(0)
    info = dict(
        **dict(name="small_cnn", classes=["disc", "square"], size=32, side=32),
        **dict(normalise="half", head="linear", outputs=2, task="classification"),
    )
    save_model(folder / "run", create_model("small_cnn", 2), info)
    return folder


@pytest.mark.parametrize("file", ["best.json", "best.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "loop", "folder", "nul"])
def test_a_model_that_is_not_a_file(tmp_path, weights, file, kind):
    shutil.copytree(weights / "run", tmp_path / "run")
    path = tmp_path / "run" / file
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(file)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(bytes(1000))
    image = next((weights / "tiny").rglob("*.png"))
    loop = file == "best.json" and kind == "loop"  # a link that leads nowhere does not exist
    refused(
        "predict",
        "--run",
        path.parent,
        image,
        says="no best.json" if loop else f"{file}",
        hangs=kind == "pipe",
    )


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(outputs="2"), "best.json: outputs: should be"),
        (dict(size="32"), "best.json: size: should be"),
        (dict(size=1), "best.json: size: should be"),
        (dict(name="vit_giant_patch14_224"), "does not fit this VisionTransformer"),
        (dict(name="squeezenet1_0"), "does not fit this SqueezeNet"),
        (dict(name="x" * 10_000), "best.json: name: should be"),
        (dict(side=10**9), "best.json: side: should be"),
        (dict(classes=["disc", "disc"]), "best.json: classes: 'disc' is listed twice"),
    ],
)
def test_a_model_file_is_checked_before_it_is_built(tmp_path, weights, changes, says):
    shutil.copytree(weights / "run", tmp_path / "run")
    path = tmp_path / "run" / "best.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    image = next((weights / "tiny").rglob("*.png"))
    refused("predict", "--run", tmp_path / "run", image, says=says)


@pytest.mark.parametrize(
    "text, says",
    [
        (
            "a0: &a0 [x]\n"
            + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
            "aliases stand for more than",
        ),
        ("train: " + "[" * 20_000, "nested too deeply"),
        ("train: {epochs: " + "1" * 5_000 + "}", "not YAML"),
        ("train: {epochs: \0}", "not YAML"),
        ("train: {threads: 100000000}", "train.threads: should be less than or equal to 256"),
        ("seeds: [-1]", "seeds.0: should be greater than or equal to 0"),
        ("optim: {lr: .inf}", "optim.lr: should be a finite number"),
        ("experiments: {../../out: {}}", "it names a folder"),
    ],
)
def test_a_preset_is_refused_before_any_work(tmp_path, text, says):
    (tmp_path / "bad.yaml").write_text(text)
    folder = tiny_folder(tmp_path / "tiny")
    out = tmp_path / "run"
    refused("train", "--data", folder, "--out", out, f"preset={tmp_path / 'bad.yaml'}", says=says)
    assert not out.exists()


def test_a_notebook_with_a_conflict_is_named(tmp_path):
    path = tmp_path / "x.ipynb"
    text = (TOP / "nbs" / "core" / "00_io.ipynb").read_text(encoding="utf-8")
    path.write_text(text.replace(' "cells": [', '<<<<<<< HEAD\n "cells": [', 1))
    refused("clean", path, says="x.ipynb:2: a merge conflict")


def test_a_full_output_is_one_line(tmp_path, weights):
    image = next((weights / "tiny").rglob("*.png"))
    if not os.path.exists("/dev/full"):
        pytest.skip("only Linux has /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [BIN / "cvlab", "predict", "--run", weights / "run", image],
            cwd=TOP,
            env=environ(TOP),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "the disk is full; free some space" in done.stderr
