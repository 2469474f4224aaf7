"Presets, advice and regression, as a person uses them."

import pandas as pd
import pytest
from conftest import TOP, cvlab, run_inline

from cvlab.cli.api import check_crossval, load
from cvlab.core.io import LabError, read_json
from cvlab.core.params import presets, resolve
from cvlab.data.boxes import read_boxes
from cvlab.data.fixtures import bright_folder, tiny_boxes, tiny_folder
from cvlab.explain.browse import Browser, run_table
from cvlab.tasks.detect import Detection

SMALL = [
    "data.size=64",
    "train.epochs=1",
    "train.batch_size=8",
    "model.weights=null",
    "schedule.warmup=0.25",
]


def test_there_is_one_for_each_task():
    assert {
        "default",
        "fast_dev",
        "few_shot",
        "two_class",
        "unequal",
        "xray",
        "helmet",
        "imbalance",
        "species",
        "tuned",
    } <= set(presets(TOP))
    p = resolve(TOP / "params.yaml", "", ["preset=fast_dev"])
    assert (p.train.epochs, p.crossval.folds) == (2, 2)
    assert resolve(TOP / "params.yaml", "", ["preset=default"]) == resolve(TOP / "params.yaml")
    p = resolve(TOP / "params.yaml", "", ["preset=unequal"])
    answer = (
        p.model.name,
        p.train.batch_size,
        p.train.epochs,
        p.crossval.folds,
        p.loss.gamma,
        p.augment.policy,
        p.optim.name,
        p.optim.lr,
        p.train.monitor,
    )
    assert answer == ("efficientnet_b3", 64, 100, 5, 2.0, "rand", "adamw", 1e-4, "val_macro_f1")
    assert p.augment.mixup and p.schedule.warmup * p.train.epochs == 5
    assert p.train.precision != "fp32" and p.train.patience


@pytest.mark.parametrize("name", sorted(presets(TOP)))
def test_a_preset_trains(name, tmp_path):
    "Small, without published weights, but with every option that the preset switches on."
    from cvlab.data.samples import find_samples, split_samples, write_split

    if boxed := name.startswith("detect"):
        folder = tiny_boxes(tmp_path / "data", n=40)
        split = Detection.split(read_boxes(folder, tmp_path / "cache").samples)
    else:
        folder = tiny_folder(tmp_path / "data")
        split = split_samples(find_samples(folder))
    write_split(tmp_path / "prepare" / "split.csv", split)
    own = [
        f"preset={name}",
        f"data.path={folder}",
        *SMALL,
        # as EfficientNet-B3, in a tenth of the time
        *(["train.batch_size=4", "model.name=efficientnet_lite0"] if name == "unequal" else []),
        *(["detect.body=small_cnn"] if boxed else ["data.size=32"]),
    ]
    run_inline("train", tmp_path / "train" / "seed-0", own)
    p = resolve(TOP / "params.yaml", "", own)
    asked = read_yaml_of(tmp_path / "train" / "seed-0" / "params.yaml")
    assert (
        asked["requested"]["loss"] == p.loss.model_dump()
        and asked["requested"]["augment"] == p.augment.model_dump()
    )


@pytest.mark.parametrize("name", sorted(presets(TOP)))
def test_a_preset_goes_through_folds(name):
    "All that `cvlab crossval` asks before anything starts, of every experiment that the preset brings."

    def asked(e):
        return resolve(TOP / "params.yaml", e, [f"preset={name}"])

    p = asked("")
    recipes, student = (
        [asked(e) for e in p.crossval.experiments],
        p.crossval.student and asked(p.crossval.student),
    )
    for e in p.experiments:
        asked(e)
    n = 1200
    split = pd.DataFrame(
        dict(
            id=[f"{i:016x}" for i in range(n)],
            label=[f"class {i % 4}" for i in range(n)],
            group=range(n),
            subset=["test" if i % 6 == 0 else "train" for i in range(n)],
        )
    )
    check_crossval(split, *recipes, student=student)


def read_yaml_of(path):
    from cvlab.core.params import plain, read_yaml

    return plain(read_yaml(path))


@pytest.mark.slow
def test_folds_from_the_command_line(tmp_path):
    folder = tiny_folder(tmp_path / "data")
    words = [
        "crossval",
        "--data",
        folder,
        "--out",
        tmp_path / "run",
        "preset=fast_dev",
        "data.size=32",
        "train.batch_size=4",
    ]
    code, out, err = cvlab(*words)
    assert code == 0, err
    assert "out of fold: macro F1" in out
    nets = {f: f.stat().st_mtime_ns for f in (tmp_path / "run" / "weights").rglob("*.safetensors")}
    assert len(nets) == 2
    code, out, err = cvlab("predict", "--run", tmp_path / "run", folder / "disc")
    assert code == 0, err
    assert len(out.splitlines()) == 25 and all(
        r.split(",")[1] in ("disc", "square") for r in out.splitlines()[1:]
    )
    # all models of the folds, as `test_scores.csv` has them
    code, out, err = cvlab("evaluate", "--run", tmp_path / "run")
    assert code == 0, err
    ways = pd.read_csv(tmp_path / "run" / "crossval" / "test_scores.csv").set_index("way")
    assert f"test accuracy {ways.accuracy['average']:.3f}" in out
    code, out, err = cvlab(*words, "crossval.tta=flip", "crossval.student=default")
    assert code == 0, err
    assert all(f.stat().st_mtime_ns == t for f, t in nets.items()), "finished folds stay"
    ways = (
        pd.read_csv(tmp_path / "run" / "crossval" / "test_scores.csv")
        .set_index(["experiment", "way"])
        .passes.to_dict()
    )
    assert ways == {
        ("default", "one model"): 1,
        ("default", "average"): 2,
        ("default", "vote"): 2,
        ("default", "one model, flip"): 2,
        ("default", "average, flip"): 4,
        ("student", "alone"): 1,
        ("student", "student"): 1,
    }


@pytest.mark.slow
def test_advice_can_be_trained_on(tmp_path):
    folder = tiny_folder(tmp_path / "data")
    code, out, err = cvlab("advise", folder, "--out", tmp_path / "advice.yaml")
    assert code == 0, err
    assert "48 images of 2 classes, 1.0 to 1, side 40 px; no GPU" in out and ": about " in out
    run_words = [
        "train",
        "--data",
        folder,
        "--out",
        tmp_path / "run",
        f"preset={tmp_path / 'advice.yaml'}",
        "model.name=small_cnn",
        "model.weights=null",
        "model.head_init=random",
    ]
    code, out, err = cvlab(*run_words, "train.epochs=2", "leakage.planted=8")
    assert code == 0, err
    requested = read_yaml_of(tmp_path / "run" / "train" / "seed-0" / "params.yaml")["requested"]
    assert requested["train"]["monitor"] == "val_accuracy"


@pytest.mark.slow
def test_a_number_is_learned_and_predicted(tmp_path):
    folder = bright_folder(tmp_path / "bright", 120)
    words = ["data.size=32", "train.batch_size=16", "train.epochs=25", "optim.lr=0.02"]
    words += ["evaluate.samples=8", "leakage.planted=8"]
    code, out, err = cvlab(
        "train",
        "task=regression",
        "--data",
        folder / "samples.csv",
        "--out",
        tmp_path / "run",
        *words,
    )
    assert code == 0, err
    assert (
        "model      test R² 0." in out
        and "mean absolute error" in out
        and "histogram  test R² " in out
    )
    scores = read_json(tmp_path / "run" / "evaluate" / "seed-0" / "metrics.json")["test"]
    mean = read_json(tmp_path / "run" / "baseline" / "metrics.json")["mean"]
    assert scores["r2_low"] > 0.3 and mean["r2"] < 0.2
    code, out, err = cvlab("predict", "--run", tmp_path / "run", folder / "000.png")
    assert code == 0, err
    path, label, probability, error = out.splitlines()[1].split(",")
    assert 0.3 < float(label) < 3 and probability == "" and error == ""
    code, out, err = cvlab("evaluate", "--run", tmp_path / "run")
    assert code == 0 and "test R² 0." in out, err
    code, out, err = cvlab(
        "interpret", "--run", tmp_path / "run", folder / "000.png", "--out", tmp_path / "maps.png"
    )
    assert code == 0 and (tmp_path / "maps.png").exists(), err
    first = (tmp_path / "run" / "evaluate" / "seed-0" / "predictions.csv").read_bytes()
    again = [
        "train",
        "task=regression",
        "--data",
        folder / "samples.csv",
        "--out",
        tmp_path / "again",
        *words,
    ]
    assert cvlab(*again)[0] == 0
    assert (tmp_path / "again" / "evaluate" / "seed-0" / "predictions.csv").read_bytes() == first, (
        "byte for byte"
    )
    row = load(tmp_path / "run").compare(tmp_path / "again").iloc[0]
    assert (row.effect, row.reference, row.words[:20]) == (0, scores["mae"], "no detectable effect")
    with pytest.raises(LabError, match="metric=accuracy: one of mae, r2"):
        load(tmp_path / "run").compare(tmp_path / "again", "accuracy")
    page = Browser(["seed-0"], tmp_path / "run")
    shown = run_table(page.runs).iloc[0]
    assert (shown.metric, shown.test, shown.test_images) == ("mae", round(scores["mae"], 3), 18)
    assert "Training curves of seed-0" in page.curves() and "relative to chance" in page.curves()
    code, out, err = cvlab("crossval", "task=regression", "--data", folder / "samples.csv")
    assert (
        code == 1
        and err == "cvlab: task=regression: the stage crossval is only for classification\n"
    )
