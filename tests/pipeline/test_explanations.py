"""Shapley values and LIME beside the packages shap and lime, on a function whose exact Shapley values are known.

    pip install --require-hashes -r requirements/peers.txt

The packages are no part of the lab: captum computes both on any model, also with a ReLU in place, which shap refuses, and on
a grid of cells, where lime cuts a small image into three pieces. With the same cells and the same covering, all agree."""

import numpy as np
import pytest
from PIL import Image

from cvlab.explain import perturb

pytestmark = pytest.mark.slow
CELLS, SIDE, TARGET = 3, 32, 1
WHERE = perturb.grid(SIDE, CELLS)


@pytest.fixture
def image():
    coarse = np.random.default_rng(0).integers(0, 255, (5, 5, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


@pytest.fixture
def predict():
    "A function of the cells' mean colours in which the cells interact."
    rng = np.random.default_rng(1)
    into, out = rng.normal(0, 1.5, (3 * CELLS**2, 8)), rng.normal(0, 1, (8, 2))

    def answer(images):
        x = np.asarray(images, float) / 255
        means = np.stack([x[:, WHERE == k].mean(1) for k in range(CELLS**2)], 1)
        return np.tanh((means.reshape(len(x), -1) - 0.4) @ into) @ out

    return answer


def values(predict, image, method):
    return perturb.cell_values(predict, image[None], [TARGET], method, CELLS)[0].ravel()


def distance(ours, theirs):
    "Largest difference of a cell, as a share of the range over the cells."
    return np.abs(ours - theirs).max() / np.ptp(theirs)


def test_shapley_values_are_those_of_shap(image, predict, monkeypatch):
    shap = pytest.importorskip("shap")
    base = perturb.mean_colour(image[None])[0]

    def shown(cells):  # (n, 9), 1: shown -> (n,)
        images = [np.where(row[WHERE][..., None] > 0.5, image, base) for row in cells]
        return predict(np.stack(images))[:, TARGET]

    covered = shap.maskers.Independent(np.zeros((1, CELLS**2)))
    exact = shap.explainers.ExactExplainer(shown, covered)(np.ones((1, CELLS**2))).values[0]
    few = distance(values(predict, image, "shapley"), exact)
    monkeypatch.setattr(perturb, "ORDERS", 64 * perturb.ORDERS)
    # the error of a mean of random orders falls with their square root
    assert distance(values(predict, image, "shapley"), exact) < min(0.02, few / 4)
    # what this would show: occlusion counts each interaction for every cell that takes part
    assert distance(values(predict, image, "occlusion"), exact) > 0.2


def test_lime_is_that_of_lime(image, predict, monkeypatch):
    lime_image = pytest.importorskip("lime.lime_image")
    monkeypatch.setattr(perturb, "DRAWN", 8000)  # else both err by what they drew
    found = lime_image.LimeImageExplainer(random_state=0).explain_instance(
        image.astype(float),
        lambda x: predict(x.round().astype(np.uint8)),
        labels=(TARGET,),
        top_labels=None,
        hide_color=perturb.mean_colour(image[None])[0, 0, 0].astype(float),
        num_features=CELLS**2,
        num_samples=perturb.DRAWN,
        segmentation_fn=lambda _: WHERE,
    )
    theirs = np.array([w for _, w in sorted(found.local_exp[TARGET])])
    ours = values(predict, image, "lime")
    # lime weights a set of cells by how many are covered, captum by how much of the image changes
    assert distance(ours, theirs) < 0.15
    assert np.corrcoef(ours, theirs)[0, 1] > 0.98
