"Each parameter acts: flip it, and the run it belongs to gives other bytes."

import pytest
from conftest import run_inline

from cvlab.core.io import file_hash
from cvlab.core.params import known_keys
from cvlab.data.boxes import read_boxes
from cvlab.data.fixtures import SMOKE, tiny_boxes, tiny_folder
from cvlab.data.samples import write_split
from cvlab.tasks.detect import Detection

# a stage in which the parameter must show, and another value for it
FLIPS = {
    "data.size": ("train", 24),
    "data.crop_margin": ("train", 0.25),
    "split.val": ("prepare", 0.25),
    "split.test": ("prepare", 0.25),
    "split.seed": ("prepare", 1),
    "augment.hflip": ("train", 0.9),
    "augment.vflip": ("train", 0.5),
    "augment.rotate": ("train", 45.0),
    "augment.zoom": ("train", 0.4),
    "augment.shift": ("train", 0.3),
    "augment.random_crop": ("train", 0.5),
    "augment.brightness": ("train", 0.5),
    "augment.contrast": ("train", 0.5),
    "augment.saturation": ("train", 0.9),
    "augment.hue": ("train", 0.2),
    "augment.policy": ("train", "trivial"),
    "augment.magnitude": ("train", 20),
    "augment.cutout": ("train", 0.9),
    "augment.mixup": ("train", 0.4),
    "augment.cutmix": ("train", 1.0),
    "model.name": ("train", "resnet10t"),
    "model.weights": ("train", "WEIGHTS"),
    "model.normalise": ("train", "imagenet"),
    "model.head": ("train", "deep"),
    "model.head_init": ("train", "probe"),
    "model.freeze": ("train", "half"),
    "model.dropout": ("train", 0.5),
    "loss.label_smoothing": ("train", 0.2),
    "loss.alpha": ("train", "effective"),
    "loss.beta": ("train", 0.5),
    "loss.gamma": ("train", 2.0),
    "loss.tau": ("train", 1.0),
    "optim.l1": ("train", 0.01),
    "optim.name": ("train", "sgd"),
    "optim.lr": ("train", 0.01),
    "optim.wd": ("train", 0.5),
    "optim.mom": ("train", 0.5),
    "optim.layer_lr_decay": ("train", 0.5),
    "optim.clip": ("train", 0.01),
    "optim.accumulate": ("train", 2),
    "schedule.name": ("train", "cosine"),
    "schedule.warmup": ("train", 0.5),
    "schedule.every": ("train", 1),
    "schedule.gamma": ("train", 0.5),
    "train.epochs": ("train", 3),
    "train.batch_size": ("train", 4),
    "train.precision": ("train", "bf16"),
    "train.channels_last": ("train", "true"),
    "train.monitor": ("train", "val_accuracy"),
    "train.sampler": ("train", "over"),
    "train.unfreeze_every": ("train", 1),
    "train.patience": ("train", 1),
    "train.ema": ("train", 0.9),
    "train.precise_bn": ("train", "false"),
    "train.save_every": ("train", 1),
    "train.start_size": ("train", 16),
    "crossval.folds": ("crossval", 3),
    "crossval.repeats": ("crossval", 2),
    "crossval.tta": ("crossval", "flip"),
    "crossval.student": ("crossval", "default"),
    "crossval.share": ("crossval", 1.0),
    "crossval.temperature": ("crossval", 8.0),
    "lr_find.repeats": ("lr_find", 3),
    "lr_find.steps": ("lr_find", 25),
    "lr_find.start": ("lr_find", 1e-4),
    "lr_find.stop": ("lr_find", 1.0),
    "baseline.bins": ("baseline", 4),
    "baseline.C": ("baseline", 0.01),
    "baseline.probe_C": ("baseline", 1.0),
    "leakage.bits": ("leakage", 20),
    "leakage.alpha": ("leakage", 0.3),
    "leakage.planted": ("leakage", 12),
    "evaluate.samples": ("evaluate", 5),
    "interpret.samples": ("interpret", 4),
    "interpret.cells": ("interpret", 20),
}
# where a parameter shows only in company
# long enough for loss and accuracy to disagree
COMPANY = {
    "train.monitor": ["optim.lr=0.01", "train.epochs=6"],
    "train.patience": [
        "optim.name=sgd",
        "optim.lr=1.0e-9",
        "train.epochs=6",
        "train.monitor=val_accuracy",
    ],
    "optim.mom": ["schedule.name=cosine"],  # one_cycle moves it itself
    "schedule.every": ["schedule.name=step", "train.epochs=4"],
    "augment.magnitude": ["augment.policy=rand"],
    "train.unfreeze_every": ["model.freeze=backbone"],
    "loss.beta": ["loss.alpha=effective"],
    "crossval.share": ["crossval.student=default"],
    "crossval.temperature": ["crossval.student=default"],
    "baseline.probe_C": ["model.weights=WEIGHTS"],
    "schedule.gamma": ["schedule.name=step", "schedule.every=1", "train.epochs=4"],
}
ELSEWHERE = {
    "data.path": "the folder all tests here use",
    "task": "tests/pipeline/test_presets.py",
    "seeds": "the matrix of dvc.yaml, tests/pipeline/test_pipeline.py",
    "experiments": "likewise",
    "crossval.experiments": "tests/pipeline/test_folds.py",
    # whether other threads give other bytes depends on the processor
    "train.threads": "below",
    "train.processes": "tests/pipeline/test_distributed.py",
    "train.sync_bn": "nbs/training/07_distributed.ipynb",
    **dict.fromkeys(
        [f"detect.{k}" for k in ("body", "strides", "width", "mosaic", "plain_epochs")], "below"
    ),
    **dict.fromkeys(
        [
            f"tune.{k}"
            for k in ("pruner", "trials", "seeds", "folds", "epochs", "metric", "minutes")
        ],
        "nbs/studies/04_tune.ipynb",
    ),
    **dict.fromkeys(["tune.method", "tune.space"], "nbs/studies/03_space.ipynb"),
    **dict.fromkeys(["tune.members", "tune.every"], "nbs/studies/05_population.ipynb"),
    "tune.workers": "nbs/studies/06_workers.ipynb",
    "tune.executor": "tests/pipeline/test_tune.py, each executor at night",
    "tune.finals": "nbs/studies/07_winner.ipynb",
    "train.cache_features": "the same training, faster: below, and nbs/training/04_frozen_cache",
    "augment.albumentations": "below, where the extra is installed",
    **dict.fromkeys(
        [f"data.{k}" for k in "layout depth ignore na follow_links drop_small".split()],
        "tests/pipeline/test_shapes.py",
    ),
    "data.decisions": "tests/pipeline/test_suspects.py",
    "leakage.split": "tests/pipeline/test_data.py, data that come with parts",
    "leakage.action": "likewise",
    "leakage.extent": "nbs/evaluation/06_leakage, nbs/cli/00_api and below",
}
BASE = [*(o for o in SMOKE if not o.startswith("seeds")), "crossval.folds=2"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A tiny dataset, prepared and trained once."
    root = tmp_path_factory.mktemp("lab")
    base = [*BASE, f"data.path={tiny_folder(root / 'data')}"]
    for f in sorted((root / "data" / "square").iterdir())[:10]:
        f.unlink()  # classes of two sizes
    for stage, out in [("prepare", "prepare"), ("train", "train/seed-0")]:
        run_inline(stage, root / "base" / out, base)
    return root, base


def artifacts(root, stage):
    "Hashes of what a stage wrote: tables, logs, figures, weights."
    here = [p for d in (stage, "weights") for p in (root / d).rglob("*") if p.is_file()]
    return {
        p.relative_to(root).as_posix(): file_hash(p)
        for p in here
        if p.suffix in (".csv", ".png", ".safetensors", ".json")
        and p.name not in ("environment.json", "timing.json", "best.json", "metrics.json")
    }


def run(lab, name, stage, overrides=()):
    "One stage in a root of its own, on the split and the weights of the base."
    import shutil

    root, base = lab
    for d in ("prepare", "train", "weights"):
        if d != stage:
            shutil.copytree(
                root / "base" / d,
                root / name / d,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns(".lock"),
            )
    run_inline(
        stage,
        root / name / (f"{stage}/seed-0" if stage in ("train", "evaluate") else stage),
        [*base, *overrides],
    )
    return artifacts(root / name, stage)


@pytest.fixture(scope="module")
def acts(lab):
    "What a stage writes with some options, which several tests compare with: run once."
    seen = {}

    def run_once(stage, *options):
        if (stage, options) not in seen:
            seen[stage, options] = run(lab, f"ref-{len(seen)}", stage, options)
        return seen[stage, options]

    return run_once


def test_every_parameter_is_tried():
    assert set(FLIPS) | set(ELSEWHERE) == set(known_keys())


@pytest.mark.parametrize("stage", sorted({s for s, _ in FLIPS.values()}))
def test_same_parameters_same_bytes(stage, lab, acts):
    assert run(lab, f"again-{stage}", stage) == acts(stage)


@pytest.mark.parametrize("key", FLIPS)
def test_parameter_acts(key, lab, acts):
    stage, value = FLIPS[key]
    weights = str(lab[0] / "base" / "weights" / "seed-0" / "best.safetensors")
    value = weights if value == "WEIGHTS" else value
    extra = [e.replace("WEIGHTS", weights) for e in COMPANY.get(key, [])]
    assert acts(stage, *extra, f"{key}={value}") != acts(stage, *extra), (
        f"{key}={value} changes nothing"
    )


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    "Images with boxes, and the histories of a detector that is trained on them."
    root, seen = tmp_path_factory.mktemp("boxes"), {}
    folder = tiny_boxes(root / "data")
    base = ["task=detect", "model.name=one_stage", f"data.path={folder}"]
    base += ["data.size=32", "train.epochs=2", "train.batch_size=8", "train.precise_bn=false"]
    base += ["detect.body=small_cnn", "detect.strides=[4, 8]", "detect.width=16"]
    split = Detection.split(read_boxes(folder, root / "cache").samples)
    write_split(root / "prepare" / "split.csv", split)

    def history(*overrides):
        if overrides not in seen:
            out = root / "train" / f"seed-{len(seen)}"
            run_inline("train", out, [*base, "detect.plain_epochs=0", *overrides])
            seen[overrides] = (out / "results.csv").read_text()
        return seen[overrides]

    return history


@pytest.mark.parametrize(
    "option, beside",
    [
        ("detect.body=mobilenetv3_small_050", ["detect.mosaic=0.0"]),
        ("detect.strides=[4]", ["detect.mosaic=0.0"]),
        ("detect.width=8", ["detect.mosaic=0.0"]),
        ("detect.mosaic=1.0", ["detect.mosaic=0.0"]),
        ("detect.plain_epochs=2", ["detect.mosaic=1.0"]),
    ],
)
def test_an_option_of_detection_acts(option, beside, boxes):
    assert boxes(*beside, option) != boxes(*beside)


def test_a_training_uses_the_threads_that_it_is_given(lab):
    import torch

    for n in (1, 2):
        run(lab, f"threads-{n}", "train", [f"train.threads={n}"])
        assert torch.get_num_threads() == n


def test_an_albumentations_chain_acts(lab, acts, tmp_path):
    A = pytest.importorskip("albumentations")
    A.save(A.Compose([A.GaussNoise(p=1)]), tmp_path / "chain.yaml", data_format="yaml")
    assert run(
        lab, "chain", "train", [f"augment.albumentations={tmp_path / 'chain.yaml'}"]
    ) != acts("train")


def test_frozen_layers_are_computed_once(lab):
    "The numbers are those of the long way round, to the rounding of sums, and the log says what was saved."
    import pandas as pd

    root, base = lab
    for once in ("true", "false"):
        run(
            lab,
            f"once-{once}",
            "train",
            ["model.freeze=most", "optim.name=sgd", f"train.cache_features={once}"],
        )
    a, b = (pd.read_csv(root / f"once-{o}" / "train/seed-0/results.csv") for o in ("true", "false"))
    pd.testing.assert_frame_equal(a, b, rtol=1e-3)
    logs = [(root / f"once-{o}" / "train/seed-0/train.log").read_text() for o in ("true", "false")]
    assert "layers cached" in logs[0] and "layers cached" not in logs[1]


def test_early_stopping_waits_for_the_end_of_the_warm_up(lab):
    "With a patience of one epoch, the warm-up is trained to its end, and the advice is not to lengthen it."
    import pandas as pd

    from cvlab.core.params import plain, read_yaml
    from cvlab.explain.diagnose import diagnose

    asked = ["optim.name=sgd", "optim.lr=1.0e-9", "train.epochs=12", "schedule.warmup=0.5"]
    run(lab, "patient", "train", [*asked, "train.patience=1", "train.monitor=val_accuracy"])
    folder = lab[0] / "patient" / "train/seed-0"
    history, params = pd.read_csv(folder / "results.csv"), plain(read_yaml(folder / "params.yaml"))
    assert len(history) == 7, "six epochs of warm-up, and one without improvement"
    assert "no better val_accuracy for 1 epochs" in (folder / "train.log").read_text()
    advice = [
        o
        for f in diagnose(history, n_classes=2, n_val=100, params=params["effective"])
        for o in f.overrides
    ]
    assert not any(o.startswith("train.epochs") for o in advice), advice


def test_recorded_parameters_have_no_aliases(lab):
    "Requested and effective parameters share their lists in memory; the file repeats them, as people read it."
    run(lab, "aliases", "train", ["data.ignore=[logs]"])
    text = (lab[0] / "aliases" / "train/seed-0/params.yaml").read_text()
    assert text.count("ignore: [logs]") == 2 and "&id" not in text and "*id" not in text, text
