"Each model of the list is built small, with a head of another size, and takes a step."

import pytest

from cvlab.core.io import LabError
from cvlab.core.repro import use_threads
from cvlab.models.create import classifiers, create_model
from cvlab.models.zoo import ARCHITECTURES, describe, try_out

SMALLEST = {"inception_v3": 96}  # where 64 pixels do not suffice
FAMILIES = """resnet18 vgg11 vit_tiny_patch16_224 convnext_atto densenet121 regnetx_004
    swin_tiny_patch4_window7_224 efficientnet_b0 mobilenetv3_small_100""".split()
# the others every night
EACH = [n if n in FAMILIES else pytest.param(n, marks=pytest.mark.slow) for n in ARCHITECTURES]


@pytest.fixture(autouse=True)
def few_threads():
    use_threads(2)


def test_there_are_forty():
    assert len(ARCHITECTURES) >= 40


@pytest.mark.parametrize("name", EACH)
def test_it_trains(name):
    size = SMALLEST.get(name, 64)
    model = try_out(name, n_classes=3, size=size)
    assert all(
        getattr(
            model.get_submodule(c),
            "out_features",
            getattr(model.get_submodule(c), "out_channels", 0),
        )
        == 3
        for c in classifiers(model)
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_its_head_can_be_replaced(name):
    try_out(name, n_classes=3, head="deep")


def test_what_is_described_is_what_is_built():
    for name in ("mobilenetv3_small_100", "densenet121", "squeezenet1_0"):
        model = create_model(name, 10, size=64)
        assert describe(name, 10, 64)["parameters"] == sum(p.numel() for p in model.parameters())


def test_an_unknown_one_names_its_neighbours():
    with pytest.raises(LabError, match="resnet18"):
        describe("resnet81")
