"Detection from the command line, as a person uses it."

import pandas as pd
import pytest
from conftest import TOP, cvlab
from test_cli import kill_when

from cvlab.cli.api import detect, measure, train, tune, tuned
from cvlab.core.io import LabError, read_json
from cvlab.data.fixtures import tiny_boxes
from cvlab.deploy.predictor import Predictor

SMALL = [
    "data.size=64",
    "model.dropout=0.0",
    "detect.body=small_cnn",
    "detect.strides=[4, 8]",
    "detect.width=16",
    "train.batch_size=8",
    "train.epochs=3",
    "train.monitor=val_ap",
]
ARTIFACTS = """detections.csv metrics.json results.png training_curves.png confusion_matrix.png errors.png
slices.csv slices.png val_batch0_labels.png val_batch0_pred.png worst.png evaluate.ipynb""".split()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_stage", "faster_rcnn"])
def test_a_detector_from_boxes_to_video(name, tmp_path, monkeypatch):
    monkeypatch.chdir(TOP)
    folder = tiny_boxes(tmp_path / "data", "yolo", n=48)
    over = [*SMALL, f"model.name={name}"]
    run = train(folder, tmp_path / "run", task="detect", recipe="params", overrides=over)
    assert 0 <= run.metrics.loc["test", "ap"] <= 1 and "AP50" in run.report()
    assert {f.name for f in run.stage("evaluate").iterdir()} >= set(ARTIFACTS)
    assert {f.name for f in run.stage("train").iterdir()} >= {"results.csv", "train.log"}
    assert (run.stage("weights") / "last.safetensors").exists()
    assert run.paths.card.read_text().startswith(f"# Model card: {name}, seed 0")
    assert read_json(run.paths.leakage_report)["probes"] == []
    assert 0 <= run.baselines.loc["blind", "ap50"] < run.metrics.loc["test", "ap50"] + 0.5
    assert "Learning curves: " in run.report()
    assert "objects" in measure(tmp_path / "run", "val")
    monkeypatch.chdir(TOP)
    predictor = Predictor(tmp_path / "run")
    assert detect(predictor, [folder / "images"]).startswith("path,label,score,x0")
    line = detect(predictor, [folder / "images"], tmp_path / "found.gif")
    assert "found.detections.csv" in line
    assert set(pd.read_csv(tmp_path / "found.detections.csv").label) <= {"disc", "square"}
    again = train(folder, tmp_path / "again", task="detect", recipe="params", overrides=over)
    assert again.history.equals(run.history)
    files = [r.stage("evaluate") / "detections.csv" for r in (run, again)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert read_json(run.paths.metrics) == read_json(again.paths.metrics)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_stage", "faster_rcnn"])
def test_killed_and_resumed_it_ends_in_the_same_bytes(name, tmp_path):
    "SIGKILL after the second epoch of four; weights, history and detections are those of a training left alone."
    folder = tiny_boxes(tmp_path / "data", "voc", n=48)
    words = ["train", "--data", folder, "--recipe", "params", "--seed", 3, "task=detect"]
    words += [*SMALL, f"model.name={name}", "train.epochs=4", "train.threads=1"]
    whole, again = tmp_path / "whole", tmp_path / "again"
    code, _, err = cvlab(*words, "--out", whole)
    assert code == 0, err
    log = again / "train/seed-3/train.log"
    words += ["--out", again]
    kill_when(lambda: log.exists() and "epoch   2 " in log.read_text(), again, *words)
    assert not (again / "train/seed-3/results.csv").exists()
    code, _, err = cvlab(*words, "--resume")
    assert code == 0 and "the training continues" in err, err
    for f in "weights/seed-3/best.safetensors train/seed-3/results.csv evaluate/seed-3/detections.csv".split():
        assert (again / f).read_bytes() == (whole / f).read_bytes(), f


@pytest.mark.slow
def test_a_detector_is_tuned(tmp_path, monkeypatch):
    "Trials are judged by AP on the validation set, winner and default compared by AP on the test set; it goes on."
    monkeypatch.chdir(TOP)
    folder = tiny_boxes(tmp_path / "data", "yolo", n=48)
    space = (
        "tune.space={optim.lr: {low: 1.0e-4, high: 1.0e-2, log: true}, detect.mosaic: [0.0, 0.5]}"
    )
    small = [*SMALL, "task=detect", "model.name=one_stage", "tune.pruner=none", "tune.finals=2"]
    words = [*small, "tune.metric=val_ap", "tune.epochs=3", "optim.lr=0.0001", space]
    how = dict(recipe="params", method="random", trials=3, overrides=words)
    run = tune(folder, tmp_path / "run", **how)
    found = read_json(run / "tune" / "verdict.json")
    assert found["metric"] == "ap" and found["seeds"] == 2 and found["low"] <= found["high"]
    assert "ap " in tuned(run)
    table = pd.read_csv(run / "tune" / "comparison.csv")
    assert table.metric.tolist() == ["ap", "ap50"] and table.effect.iloc[0] == pytest.approx(
        found["effect"]
    )
    trials = run / "tune" / "trials"
    rows = pd.read_csv(trials / "0001" / "predictions-0.csv")
    assert {*rows.columns} >= {"score", "x0"} and {*rows.subset} == {"val"}
    before = (trials / "0002" / "trial.json").read_bytes()
    tune(folder, tmp_path / "run", **how | dict(trials=4))
    assert (trials / "0002" / "trial.json").read_bytes() == before
    assert (trials / "0003" / "trial.json").exists()


@pytest.mark.parametrize(
    "over, says",
    [
        (["model.name=resnet18"], "with task=detect one of faster_rcnn, one_stage"),
        (["model.name=one_stage", "augment.mixup=0.2"], "augment.mixup=0.2: not with task=detect"),
        (["model.name=one_stage", "detect.body=alexnet"], "gives no maps"),
    ],
)
def test_one_clear_line_before_long_work(over, says, tmp_path, monkeypatch):
    monkeypatch.chdir(TOP)
    folder = tiny_boxes(tmp_path / "data", n=16)
    with pytest.raises(LabError, match=says):
        over = [*SMALL, *over]
        train(folder, tmp_path / "run", task="detect", recipe="params", overrides=over)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("zone", ["gate", "gate=0.5,0,0.2,1", "gate=0,0,1"])
def test_a_zone_is_checked_before_any_frame(zone):
    with pytest.raises(LabError, match="write name=left,top,right,bottom"):
        detect(None, ["street.gif"], "out.gif", zones=(zone,))


def test_tracks_are_only_of_videos(tmp_path):
    with pytest.raises(LabError, match="only of a video, with --out"):
        detect(None, [tmp_path], tracks=True)


def test_a_folder_without_boxes_is_no_data_for_detection(tmp_path, monkeypatch):
    monkeypatch.chdir(TOP)
    folder = tiny_boxes(tmp_path / "data", n=16)
    with pytest.raises(LabError, match="no labels of boxes here"):
        train(
            folder / "JPEGImages",
            tmp_path / "run",
            task="detect",
            recipe="params",
            overrides=[*SMALL, "model.name=one_stage"],
        )
