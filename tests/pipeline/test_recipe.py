"Own images without options: the recipe, the probe as a model, and what the last lines recommend."

import io
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from conftest import BIN, TOP, environ

import cvlab
from cvlab.core.io import write_tensors
from cvlab.core.params import plain, read_yaml
from cvlab.data.fixtures import tiny_folder
from cvlab.models.create import create_model

QUICK = ["data.size=32", "train.epochs=2", "train.batch_size=8", "leakage.planted=8"]


def command(*words):
    "Run cvlab in the repository."
    return subprocess.run(
        [BIN / "cvlab", *map(str, words)], cwd=TOP, env=environ(TOP), capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A training with a file of weights and no other choice of model."
    root = tmp_path_factory.mktemp("recipe")
    images, weights = tiny_folder(root / "photos", n=48), root / "resnet10t.safetensors"
    write_tensors(weights, create_model("resnet10t", 1000, size=32).state_dict())
    words = ["train", "--data", images, "--out", root / "run", f"model.weights={weights}"]
    return root, command(*words, *QUICK), weights


def requested(root):
    return plain(read_yaml(root / "run/train/seed-0/params.yaml"))["requested"]


def test_the_recipe_is_printed_recorded_and_used(trained):
    root, done, _ = trained
    assert done.returncode == 0, done.stderr
    preset = (root / "run" / "recipe.yaml").read_text()
    assert preset in done.stderr and "Fine-tuning all layers, " in done.stderr
    p = requested(root)
    assert (p["model"]["name"], p["model"]["head_init"]) == ("resnet10t", "probe")
    assert p["model"]["normalise"] in preset  # tried, because the file does not say
    assert (p["data"]["size"], p["train"]["epochs"]) == (32, 2)  # named parameters win


def test_the_probe_is_a_model(trained):
    root, done, _ = trained
    assert "Model minus probe: accuracy" in done.stdout and "Recommended: the " in done.stdout
    images = sorted((root / "photos").rglob("*.png"))
    got = command("predict", "--run", root / "run/weights/probe", *images)
    assert got.returncode == 0, got.stderr
    (root / "got.csv").write_text(got.stdout)
    answers = pd.read_csv(root / "got.csv")
    names = {
        Path(p).relative_to(root / "photos").as_posix(): a
        for p, a in zip(answers.path, answers.label)
    }
    split = pd.read_csv(root / "run/prepare/split.csv", dtype=str).set_index("id")
    table = pd.read_csv(root / "run/baseline/probe.csv", dtype={"id": str})
    logits = table.filter(like="logit_")
    expected = logits.idxmax(axis=1).str.removeprefix("logit_")
    sure = (logits.max(axis=1) - logits.min(axis=1)) > 0.01
    assert sure.sum() > 8
    for i, label in zip(table.id[sure], expected[sure]):
        assert names[split.path[i]] == label
    # the trained model is what the folder of the run means
    assert cvlab.load(root / "run").predictor().info["size"] == 32


@pytest.mark.slow
def test_the_probe_is_exported_and_served(trained):
    pytest.importorskip("onnxruntime", reason="the extra export is missing")
    from cvlab.cli.api import served_file

    root, _, _ = trained
    probe, images = root / "run/weights/probe", sorted((root / "photos").rglob("*.png"))[:12]
    done = command("export", "--run", probe, "--out", root / "probe")
    assert done.returncode == 0 and "differs from the run by" in done.stdout, done.stderr
    answers = [command("predict", "--run", m, *images).stdout for m in (probe, root / "probe")]
    first, second = (pd.read_csv(io.StringIO(a)) for a in answers)
    assert first.label.tolist() == second.label.tolist()
    assert (first.probability - second.probability).abs().max() < 1e-4
    assert served_file(root / "probe").name == "model.onnx"


@pytest.mark.slow
def test_a_resumed_training_keeps_its_recipe(trained):
    root, _, weights = trained
    before = (root / "run/recipe.yaml").read_bytes()
    words = ["train", "--data", root / "photos", "--out", root / "run", "--resume"]
    done = command(*words, f"model.weights={weights}", *QUICK)
    assert done.returncode == 0 and "to do: nothing" in done.stderr, done.stderr
    assert (root / "run/recipe.yaml").read_bytes() == before


def test_a_wrong_budget_is_named_first(trained):
    root, *_ = trained
    done = command("train", "--data", root / "photos", "--out", root / "none", "--budget", "soon")
    assert done.returncode == 1 and done.stderr == (
        "cvlab: --budget soon: a time such as 10m or 1h, or best (no limit)\n"
    )
