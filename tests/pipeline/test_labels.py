"Classes with odd names, many classes, classes that some part lacks: all stages work, or one line says what is wrong."

import io

import numpy as np
import pandas as pd
import pytest
from conftest import cvlab, run_inline
from PIL import Image

from cvlab.data.fixtures import SMOKE, bright_folder, tiny_folder, tiny_image
from cvlab.evidence.pages import check_card, write_card

# two differ only in case
ODD = [
    "red apple",
    "fruit/pear",
    "🍏",
    "ß & <b>",
    "Apple",
    "apple",
    "1.5",
    "nan",
    "<5 mm",
    "{",
    "a|b",
]
STAGES = ("prepare", "leakage", "baseline", "train", "evaluate", "crossval")


def table(folder, labels, subset=lambda i, label: "", side=16):
    "A CSV of random images, discs for every other class, one a label given."
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    kinds = {label: ("disc", "square")[i % 2] for i, label in enumerate(dict.fromkeys(labels))}
    for i, label in enumerate(labels):
        Image.fromarray(tiny_image(rng, kinds[label], side)).save(folder / f"{i}.png")
        rows.append(dict(path=f"{i}.png", label=label, subset=subset(i, label)))
    pd.DataFrame(rows).to_csv(folder / "samples.csv", index=False)
    return folder / "samples.csv"


def run(root, source, stages, *overrides):
    for s in stages:
        where = root / s / ("seed-0" if s in ("train", "evaluate") else "")
        run_inline(s, where, [*SMOKE, f"data.path={source}", *overrides])


@pytest.mark.slow
def test_any_text_is_a_class(tmp_path):
    source = table(tmp_path / "odd", ODD * 20)
    run(
        tmp_path / "run",
        source,
        STAGES,
        "train.batch_size=8",
        "crossval.folds=2",
        "leakage.planted=8",
        "data.na=class",  # one is called nan
    )
    preds = pd.read_csv(
        tmp_path / "run/evaluate/seed-0/predictions.csv", dtype=str, keep_default_na=False
    )
    assert set(preds.label) == set(ODD) and {f"logit_{c}" for c in ODD} <= set(preds.columns)
    oof = pd.read_csv(tmp_path / "run/crossval/oof.csv", dtype=str, keep_default_na=False)
    assert set(oof.label) == set(ODD)
    assert check_card(write_card(tmp_path / "run")) == []


@pytest.mark.slow
def test_folders_of_any_name_are_trained_to_the_card(tmp_path):
    "`cvlab train` on class folders as people name them: all stages, the card, predictions and heat maps."
    names = [
        "<5 mm",
        "{",
        "cat ",
        "}{ {{x}} %s $a$",
        "-->",
        "#| x",
        "```",
        "[a](b)",
        "1. z",
        "a,b;c",
    ]
    rng = np.random.default_rng(0)
    for k, name in enumerate(names):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(8):
            im = Image.fromarray(tiny_image(rng, ("disc", "square")[k % 2], 24))
            im.save(tmp_path / "d" / name / f"{i}.png")
    quick = ["train.epochs=1", "data.size=32", "train.batch_size=8", "leakage.planted=8"]
    split = ["split.val=0.25", "split.test=0.25", "evaluate.samples=4"]
    out = tmp_path / "run"
    code, _, err = cvlab("train", "--data", tmp_path / "d", "--out", out, *quick, *split)
    assert code == 0, err
    card = out / "cards/seed-0/MODEL_CARD.md"
    assert check_card(card) == [] and all(f"| `{n} " in card.read_text() for n in ("<5 mm`", "{`"))
    preds = pd.read_csv(out / "evaluate/seed-0/predictions.csv", dtype=str, keep_default_na=False)
    assert set(preds.label) == {n.strip() for n in names}
    code, answers, err = cvlab("predict", tmp_path / "d" / "<5 mm" / "0.png", "--run", out)
    assert code == 0 and len(pd.read_csv(io.StringIO(answers))) == 1, err
    picture = tmp_path / "maps.png"
    words = ["--run", out, "--out", picture, "--target", "{"]
    code, _, err = cvlab("interpret", tmp_path / "d" / "cat " / "0.png", *words)
    assert code == 0 and picture.exists(), err


def test_names_that_differ_only_in_case_are_asked_about(tmp_path):
    source = table(tmp_path / "odd", ["Apple", "apple", "pear"] * 12)
    code, out, err = cvlab("data", "check", source)
    assert code == 0 and "classes 'Apple' and 'apple' differ only in case" in out + err


@pytest.mark.slow
def test_a_thousand_classes(tmp_path):
    labels = [f"kind {i:03}" for i in range(1000) for _ in range(3)]
    source = table(
        tmp_path / "many", labels, lambda i, label: ("train", "val", "test")[i % 3], side=12
    )
    run(
        tmp_path / "run",
        source,
        ("prepare", "train", "evaluate"),
        "train.batch_size=100",
        "train.epochs=1",
    )
    preds = pd.read_csv(tmp_path / "run/evaluate/seed-0/predictions.csv", dtype=str)
    assert preds.label.nunique() == 1000 and preds.filter(like="logit_").shape[1] == 1000


@pytest.mark.slow
def test_a_part_that_lacks_a_class_is_said_and_trained_on(tmp_path):
    "As in the photographs of fruit whose published validation set lacks three of 28 kinds."

    def subset(i, learn):
        return "train" if i < 30 else "test" if i % 2 else "val" if learn != "c" else "train"

    source = table(tmp_path / "some", list("abc") * 20, subset)
    code, out, err = cvlab(
        "train",
        "--data",
        source,
        "--out",
        tmp_path / "run",
        "train.epochs=1",
        "data.size=32",
        "train.batch_size=8",
        "train.monitor=val_macro_f1",
        "leakage.planted=8",
        "evaluate.samples=4",
    )
    assert code == 0, err
    assert "subset val has no image of 'c'" in err


@pytest.mark.parametrize(
    "labels, words, says",
    [
        (["a", "b", "c"], [], "class 'a' has 1 different image(s)"),
        (["a", "b"] * 4, ["crossval.folds=5"], "crossval.folds=5: class 'a' has"),
        (["a", "b"] * 12, ["model.name=resnet81"], "nearest: resnet18"),
        (["a", "b"] * 12, ["model.weights=THREE"], ""),
        (["a", "b"] * 12, ["train.sampler=over", "loss.tau=1.0"], "equally often already"),
        (["a", "b"] * 12, ["loss.alpha={a: 1.0, c: 2.0}"], "loss.alpha: there is no class 'c'"),
        (["a", "b"] * 12, ["preset=fast-dev"], "did you mean fast_dev?"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path, labels, words, says):
    from cvlab.models.create import create_model, save_model

    source = table(tmp_path / "some", labels, side=24)
    info = dict(name="small_cnn", classes=list("abc"), normalise="half")
    save_model(tmp_path / "three", create_model("small_cnn", 3), info)
    words = [w.replace("THREE", str(tmp_path / "three" / "best.safetensors")) for w in words]
    quick = [
        "train.epochs=1",
        "data.size=32",
        "train.batch_size=4",
        "leakage.planted=8",
        "evaluate.samples=4",
    ]
    verb = "crossval" if "crossval.folds" in str(words) else "train"
    code, out, err = cvlab(
        verb,
        "--data",
        source,
        "--out",
        tmp_path / "run",
        *(quick if says else [*quick, "baseline.bins=2"]),
        *words,
    )
    if says:
        assert code == 1 and says in err and not (tmp_path / "run").exists(), err
    else:
        # weights of another number of classes: all but the head are taken
        assert code == 0, err


def test_the_same_image_under_two_labels_is_named(tmp_path):
    source = table(tmp_path / "some", ["a", "b"] * 12)
    (tmp_path / "some" / "1.png").write_bytes((tmp_path / "some" / "0.png").read_bytes())
    code, out, err = cvlab("data", "check", source)
    assert code == 1 and "0.png" in out and "1.png" in out


# what one image at a time cannot train: batch norm with a single value per channel
@pytest.mark.parametrize(
    "way, layers",
    [
        ("train", "model.head=deep"),
        ("regression", "model.name=resnet18"),
        ("crossval", "model.head=deep"),
        ("Python", "model.name=resnet18"),
    ],
)
def test_one_image_at_a_time_is_refused_before_the_first_stage(way, layers, tmp_path):
    import cvlab as lab

    source = tiny_folder(tmp_path / "tiny")
    words = ["data.size=32", "train.batch_size=1", layers]
    if way == "regression":
        source, words = bright_folder(tmp_path / "bright", 30), ["task=regression", *words]
    out = tmp_path / "run"
    if way == "Python":
        with pytest.raises(lab.LabError) as e:
            lab.train(source, out, batch_size=1, size=32, overrides=[layers])
        err = str(e.value)
    else:
        verb = "crossval" if way == "crossval" else "train"
        code, _, err = cvlab(verb, "--data", source, "--out", out, *words)
        assert code == 1
    assert "train.batch_size=1: batch norm gets a single value" in err and not out.exists(), err


def test_a_last_batch_of_one_image_is_left_out(tmp_path):
    "17 training images in batches of 8, with batch norm in the head; 7 in batches of 3 at 32 pixels."
    for n, learn, more in [
        (34, 17, ["train.batch_size=8", "model.head=deep"]),
        (14, 7, ["train.batch_size=3", "model.name=resnet18"]),
    ]:
        source = table(
            tmp_path / str(n),
            ["a", "b"] * (n // 2),
            lambda i, label, learn=learn: "train" if i < learn else "test" if i % 4 > 1 else "val",
        )
        run(tmp_path / f"run {n}", source, ("prepare", "train"), "train.epochs=1", *more)
        split = pd.read_csv(tmp_path / f"run {n}/prepare/split.csv", dtype=str)
        assert (split.subset == "train").sum() == learn
        assert (tmp_path / f"run {n}/weights/seed-0/best.safetensors").exists()
