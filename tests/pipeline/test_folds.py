"The stage `folds`: two experiments through the same folds, what is done stays, what is too small is refused in a line."

import shutil
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from conftest import TOP, run_inline

from cvlab.cli.api import check_crossval
from cvlab.core.io import LabError
from cvlab.core.params import resolve
from cvlab.data import splits as folds_module
from cvlab.data.fixtures import SMOKE, tiny_folder
from cvlab.data.loaders import image_cache
from cvlab.data.samples import find_samples, read_split, split_samples
from cvlab.data.splits import make_folds
from cvlab.runs.run import smoke_root
from cvlab.studies import crossval
from cvlab.trackers.base import installed
from cvlab.trackers.courier import tracker_class
from cvlab.trackers.studies import check_parts, fold_parts, part_journal, send_parts

TWO = ["crossval.experiments=[default, augmented]", "crossval.folds=3"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A tiny lab, cross-validated once."
    made, overrides = smoke_root("crossval")
    root = tmp_path_factory.mktemp("crossval") / "lab"
    shutil.move(made, root)
    overrides = [*(o.replace(str(made), str(root)) for o in overrides), *TWO]
    run_inline("crossval", root / "crossval", overrides)
    return root, overrides


def test_every_image_is_judged_once_by_each(lab):
    root, _ = lab
    split = read_split(root / "prepare" / "split.csv")
    oof = pd.read_csv(root / "crossval" / "oof.csv", dtype={"id": str})
    for e in ("default", "augmented"):
        assert sorted(oof.id[oof.experiment == e]) == sorted(split.id[split.subset != "test"])
    folds = [g.set_index("id").fold.to_dict() for _, g in oof.groupby("experiment")]
    assert folds[0] == folds[1], "the same folds"
    a, b = (g.filter(like="logit_").to_numpy() for _, g in oof.groupby("experiment"))
    assert (a != b).any(), "other models"


def test_the_second_is_compared_with_the_first(lab):
    effects = pd.read_csv(lab[0] / "crossval" / "effects.csv")
    assert list(effects.experiment.unique()) == ["augmented"] and (effects.splits == 3).all()


def test_what_is_finished_stays(lab):
    "Only the fold that is missing is trained, and everything comes out as before."
    root, overrides = lab
    before = {f.name: f.read_bytes() for f in (root / "crossval").glob("*.csv")}
    (root / "weights" / "crossval" / "augmented" / "fold-0-1.json").unlink()
    with patch.object(crossval, "_train", wraps=crossval._train) as trained:
        run_inline("crossval", root / "crossval", overrides)
    assert [c.args[1] for c in trained.call_args_list] == ["fold-0-1"]
    assert {f.name: f.read_bytes() for f in (root / "crossval").glob("*.csv")} == before


def test_another_parameter_trains_again(lab, tmp_path):
    root, overrides = lab
    copy = tmp_path / "lab"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".lock"))
    overrides = [o for o in overrides if not o.startswith("crossval.experiments")]
    with patch.object(crossval, "_train", wraps=crossval._train) as trained:
        run_inline("crossval", copy / "crossval", [*overrides, "optim.wd=0.5"])
    assert len(trained.call_args_list) == 3
    assert not (copy / "weights" / "crossval" / "augmented").exists() or not any(
        (copy / "weights" / "crossval" / "augmented").iterdir()
    )


def test_a_class_smaller_than_the_folds_is_refused(lab, tmp_path):
    root, overrides = lab
    shutil.copytree(root / "prepare", tmp_path / "prepare", ignore=shutil.ignore_patterns(".lock"))
    with pytest.raises(LabError, match=r"crossval.folds=40: class '\w+' has \d+ different images"):
        run_inline("crossval", tmp_path / "crossval", [*overrides, "crossval.folds=40"])


@pytest.mark.parametrize(
    "option", ["loss.alpha=inverse", "loss.tau=1.0", "train.sampler=weighted", "train.sampler=over"]
)
def test_nothing_of_a_fold_is_in_its_network(option, tmp_path):
    "With other labels and pixels in a fold its weights are the same, byte for byte; with others outside they are not."
    split = split_samples(find_samples(tiny_folder(tmp_path / "tiny", 48)))
    folds = make_folds(split, 3)
    images = np.array(image_cache(tmp_path / "tiny", split, 32, tmp_path / "cache"))
    p = resolve(TOP / "params.yaml", "", [*SMOKE, "train.threads=1", option])
    subset = (
        crossval.fold_split(split, folds, 0, 0, p.split.val, p.split.seed).set_index("id").subset
    )

    def weights(name, spoilt):
        here, other = split.id.isin(spoilt), {"disc": "square", "square": "disc"}
        pixels = np.where(here.to_numpy()[:, None, None, None], 255 - images, images)
        lab = crossval.CrossValidation(
            p,
            split.assign(label=split.label.where(~here, split.label.map(other))),
            pixels,
            folds,
            tmp_path / name,
            {},
            tmp_path / "cache",
            log=lambda line: None,
        )
        crossval.train_fold(lab, 0, 0)
        return (tmp_path / name / "fold-0-0.safetensors").read_bytes()

    plain = weights("plain", [])
    assert weights("fold", subset.index[subset == "fold"]) == plain
    assert weights("test", split.id[split.subset == "test"]) == plain
    assert weights("train", subset.index[subset == "train"][:1]) != plain


def test_one_experiment_has_nothing_to_compare_with(lab):
    oof = pd.read_csv(lab[0] / "crossval" / "oof.csv", dtype={"id": str})
    alone = crossval.fold_effects(oof[oof.experiment == "default"], 20)
    assert not len(alone) and list(alone) == list(
        pd.read_csv(lab[0] / "crossval" / "effects.csv")
    ), "a header, and no row"


def test_all_repeats_are_asked_before_anything_starts(lab):
    "A batch that fits the first repeat and not another is refused; so is one too large for what undersampling leaves."
    split = read_split(lab[0] / "prepare" / "split.csv")

    def asked(*o):
        return resolve(TOP / "params.yaml", "", [*SMOKE, "crossval.folds=3", *o])

    with patch.object(folds_module, "fold_split", wraps=folds_module.fold_split) as seen:
        check_crossval(split, asked("crossval.repeats=4"))
    assert {c.args[2] for c in seen.call_args_list} == {0, 1, 2, 3}
    few = split[(split.label == "disc") & (split.subset != "test")].id[:6]
    rare = split[(split.label == "square") | (split.subset == "test") | split.id.isin(few)]
    check_crossval(rare, asked("train.batch_size=8"))
    with pytest.raises(LabError, match="training images that train.sampler=under leaves of"):
        check_crossval(rare, asked("train.batch_size=8", "train.sampler=under"))


def test_published_folds_are_those_of_the_cross_validation(tmp_path):
    "A table says the fold of each image; the last has no disc. Another number of folds is refused."
    folder = tiny_folder(tmp_path / "tiny", 48)
    files = sorted(f.relative_to(folder) for f in folder.rglob("*.png"))
    numbers = {f.as_posix(): 1 + int(f.stem) % 3 for f in files}
    numbers |= {f: 4 for f in numbers if f.startswith("square") and int(f[7:10]) % 4 == 1}
    rows = [f"{f},{f.split('/')[0]},{k}" for f, k in numbers.items()]
    (folder / "samples.csv").write_text("\n".join(["path,label,KFold", *rows]) + "\n")
    own = [*SMOKE, f"data.path={folder}", "train.epochs=1"]
    run_inline("prepare", tmp_path / "run/prepare", own)
    run_inline("crossval", tmp_path / "run/crossval", [*own, "crossval.folds=4"])
    split = read_split(tmp_path / "run/prepare/split.csv")
    path = split.set_index("id").path
    oof = pd.read_csv(tmp_path / "run/crossval/oof.csv", dtype={"id": str})
    assert {path[i]: k + 1 for i, k in zip(oof.id, oof.fold)}.items() <= numbers.items()
    assert oof.fold.nunique() == 4 and set(oof.label[oof.fold == 3]) == {"square"}
    with pytest.raises(LabError, match="came with 4 folds; set crossval.folds=4 and crossval.repe"):
        check_crossval(split, resolve(TOP / "params.yaml", "", [*own, "crossval.folds=3"]))


@pytest.mark.skipif(not installed("mlflow"), reason="mlflow is not installed")
def test_trackers_are_told_each_fold(lab, tmp_path, monkeypatch):
    "Every fold is a run with its experiment's parameters, and one run sums up; nothing is told twice."
    monkeypatch.setattr("cvlab.trackers.base.repo_root", lambda: tmp_path)
    where, parts = {"mlflow": f"sqlite:///{tmp_path}/m.db"}, fold_parts(lab[0])
    assert [p.name for p in parts[2:4]] == ["augmented/fold-0-2", "default/fold-0-0"]
    for _ in range(2):
        (line,) = send_parts(parts, ("mlflow",), where)
        assert line.startswith("mlflow: 7 runs in ")
    assert "exact, " in (line := check_parts(parts, "mlflow", where["mlflow"])), line
    read = [
        tracker_class("mlflow").read(where["mlflow"], part_journal(p, ()).of("start")[0]["run"])
        for p in parts
    ]
    assert [(r.tags.get("experiment"), r.tags.get("fold")) for r in read[2:4]] == [
        ("augmented", "2"),
        ("default", "0"),
    ]
    assert read[2].params["augment.rotate"] != read[3].params["augment.rotate"]
    scores = pd.read_csv(lab[0] / "crossval" / "scores.csv").query("experiment == 'augmented'")
    means = read[-1].rows.set_index("name").value
    assert means["augmented/accuracy"] == pytest.approx(scores.accuracy.mean())
