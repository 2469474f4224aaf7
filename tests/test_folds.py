"The stage `folds`: two experiments through the same folds, what is finished stays, what is too small is refused in a line."
import shutil
from unittest.mock import patch

import pandas as pd
import pytest
from conftest import run_inline
from cvlab import crossval
from cvlab.core import LabError
from cvlab.data import read_split
from cvlab.runs import smoke_root

TWO = ["folds.experiments=[default, augmented]", "folds.n=3"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A tiny lab, cross-validated once."
    made, overrides = smoke_root("folds")
    root = tmp_path_factory.mktemp("folds")/"lab"; shutil.move(made, root)
    overrides = [*(o.replace(str(made), str(root)) for o in overrides), *TWO]
    run_inline("folds", root/"folds", overrides)
    return root, overrides


def test_every_picture_is_judged_once_by_each(lab):
    root, _ = lab
    split = read_split(root/"prepare"/"split.csv"); oof = pd.read_csv(root/"folds"/"oof.csv", dtype={"id": str})
    for e in ("default", "augmented"):
        assert sorted(oof.id[oof.experiment == e]) == sorted(split.id[split.part != "test"])
    folds = [g.set_index("id").fold.to_dict() for _, g in oof.groupby("experiment")]
    assert folds[0] == folds[1], "the same folds"
    a, b = (g.filter(like="logit_").to_numpy() for _, g in oof.groupby("experiment"))
    assert (a != b).any(), "other networks"


def test_the_second_is_compared_with_the_first(lab):
    effects = pd.read_csv(lab[0]/"folds"/"effects.csv")
    assert list(effects.experiment.unique()) == ["augmented"] and (effects.splits == 3).all()


def test_what_is_finished_stays(lab):
    "Only the fold that is missing is trained, and everything comes out as before."
    root, overrides = lab
    before = {f.name: f.read_bytes() for f in (root/"folds").glob("*.csv")}
    (root/"weights"/"folds"/"augmented"/"fold-0-1.json").unlink()
    with patch.object(crossval, "_train", wraps=crossval._train) as trained: run_inline("folds", root/"folds", overrides)
    assert [c.args[1] for c in trained.call_args_list] == ["fold-0-1"]
    assert {f.name: f.read_bytes() for f in (root/"folds").glob("*.csv")} == before


def test_another_parameter_trains_again(lab, tmp_path):
    root, overrides = lab
    copy = tmp_path/"lab"; shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".lock"))
    overrides = [o for o in overrides if not o.startswith("folds.experiments")]
    with patch.object(crossval, "_train", wraps=crossval._train) as trained:
        run_inline("folds", copy/"folds", [*overrides, "optim.wd=0.5"])
    assert len(trained.call_args_list) == 3
    assert not (copy/"weights"/"folds"/"augmented").exists() or not any((copy/"weights"/"folds"/"augmented").iterdir())


def test_a_class_smaller_than_the_folds_is_refused(lab, tmp_path):
    root, overrides = lab
    shutil.copytree(root/"prepare", tmp_path/"prepare", ignore=shutil.ignore_patterns(".lock"))
    with pytest.raises(LabError, match=r"folds.n=40: class '\w+' has \d+ different pictures"):
        run_inline("folds", tmp_path/"folds", [*overrides, "folds.n=40"])
