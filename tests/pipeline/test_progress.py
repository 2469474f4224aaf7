"Work that grows with the images, or waits for a solver or another program, says what it does."

import zipfile
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cvlab.cli.main import app
from cvlab.data.archives import unpacked
from cvlab.data.fixtures import tiny_folder
from cvlab.data.importers import read_data
from cvlab.data.loaders import Batches, image_cache
from cvlab.data.samples import find_samples, split_samples
from cvlab.data.similarity import Directions, near_copies, nearest
from cvlab.datasets import install
from cvlab.datasets.meadow import make_meadow
from cvlab.evaluation.baselines import histogram_baseline
from cvlab.evaluation.leakage import make_leakage_report
from cvlab.evaluation.slices import properties
from cvlab.explain.attribution import heatmaps
from cvlab.models.create import create_model, freeze, save_model
from cvlab.tasks.infer import features_of, logits_of
from cvlab.training.frozen_cache import cache_features, frozen_features
from cvlab.training.lr_finder import lr_range_test

INFO = dict(name="small_cnn", head="linear", size=32, side=32, normalise="half")


class Lab:
    "A folder of images, their split, their cache, and a model."

    def __init__(self, top):
        self.top, self.data = top, tiny_folder(top / "data", 60)
        self.split = split_samples(find_samples(self.data))
        self.images = image_cache(self.data, self.split, 64, top / "cache")
        self.small = self.images[:, ::2, ::2]
        torch.manual_seed(0)
        self.net = create_model("small_cnn", 2)
        save_model(top / "run", self.net, INFO | dict(classes=["disc", "square"]))

    def archive(self, tmp):
        with zipfile.ZipFile(tmp / "a.zip", "w") as z:
            for f in self.data.rglob("*.png"):
                z.write(f, f.relative_to(self.top))
        return unpacked(tmp / "a.zip", tmp)

    def frozen(self, tmp):
        net = create_model("small_cnn", 2)
        freeze(net, "backbone")
        dls = [Batches(self.small, np.arange(60) % 2, 20, train=t) for t in (True, False)]
        return cache_features(net, "backbone", dls, tmp)

    def search(self, exact):
        rows = Directions(np.random.default_rng(0).random((3000, 8), np.float32))
        return nearest(rows, rows, exact=exact)

    def steps(self):
        batches = [(torch.rand(4, 3, 32, 32), torch.arange(4) % 2)]
        return lr_range_test(self.net, batches, torch.nn.CrossEntropyLoss(), 1e-4, 1e-3, 3)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp("images"))


@pytest.fixture
def shown(monkeypatch):
    "What the bars say that are opened."
    names = []

    class Bar:
        n, disable = 0, True

        def __init__(self, total, unit, what="", **options):
            names.append(what)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, n=1):
            pass

    monkeypatch.setattr("cvlab.core.progress.bar", Bar)
    return names


WORK = {
    "listing, reading": lambda lab, tmp: read_data(lab.data, tmp),
    "listing, hashing": lambda lab, tmp: find_samples(lab.data),
    "unpacking": lambda lab, tmp: lab.archive(tmp),
    "copying": lambda lab, tmp: install._copy_samples(read_data(lab.data, tmp), tmp / "to"),
    "recording data/ with DVC": lambda lab, tmp: install.record(),
    "drawing": lambda lab, tmp: make_meadow(tmp / "meadow", n=2, size=16, workers=1),
    "decoding": lambda lab, tmp: image_cache(lab.data, lab.split, 16, tmp),
    "describing, comparing hashes": lambda lab, tmp: near_copies(lab.images),
    "comparing": lambda lab, tmp: lab.search(10**9),
    "indexing, searching": lambda lab, tmp: lab.search(0),
    "copying some, comparing copies, reading headers, measuring colours, looking for shortcuts": (
        lambda lab, tmp: make_leakage_report(lab.split, lab.images, lab.data, planted=4, cache=tmp)
    ),
    "counting colours, fitting a logistic regression to 42 images": (
        lambda lab, tmp: histogram_baseline(lab.images, lab.split)
    ),
    "computing features": lambda lab, tmp: features_of(lab.net, lab.small, INFO),
    "looking up features": lambda lab, tmp: frozen_features(lab.net, lab.small, INFO, "cpu", tmp),
    "computing frozen layers": lambda lab, tmp: lab.frozen(tmp),
    "range test": lambda lab, tmp: lab.steps(),
    "predicting": lambda lab, tmp: logits_of(lab.net, lab.small, INFO),
    "measuring": lambda lab, tmp: properties(lab.small),
    "drawing heat maps": (
        lambda lab, tmp: heatmaps(lab.net, torch.rand(2, 3, 32, 32), [0, 1], "saliency")
    ),
}


@pytest.mark.parametrize("names", WORK)
def test_work_says_what_it_does(lab, tmp_path, shown, names, monkeypatch):
    monkeypatch.setattr(install, "dvc", lambda *words: CompletedProcess(words, 0))
    monkeypatch.chdir(tmp_path)
    WORK[names](lab, tmp_path)
    assert set(names.split(", ")) <= set(shown)


def test_the_command_says_how_far_it_is_if_its_rows_go_to_a_file(lab, shown):
    done = CliRunner().invoke(app, ["predict", "--run", str(lab.top / "run"), str(lab.data)])
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 61
    assert shown.count("predicting") == 1 + 60  # the files, and the batch of each
