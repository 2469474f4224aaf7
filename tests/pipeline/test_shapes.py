"What people's folders and tables look like: each shape is read, or answered with one line that says what to do."

import contextlib
import io
import os
import sys
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from conftest import TOP, cvlab, run_inline
from PIL import Image

from cvlab.cli.main import main
from cvlab.data.fixtures import SMOKE, tiny_image
from cvlab.data.folders import Reading

RNG = np.random.default_rng(0)


def image(kind="disc"):
    return Image.fromarray(tiny_image(RNG, kind, 24))


def fill(folder, n=8, **suffixes):
    "A class folder each, with images: cat='.png'."
    for i, (name, suffix) in enumerate((suffixes or dict(cat=".png", dog=".png")).items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for k in range(n):
            image(("disc", "square")[i % 2]).save(folder / name / f"{k:03}{suffix}")
    return folder


def table(folder, line, header="path,label\n", encoding="utf-8", name="t.csv"):
    "Class folders, and a CSV with a line per image: `line` is a function of class and number."
    fill(folder)
    rows = "".join(line(c, i) for c in ("cat", "dog") for i in range(8))
    (folder / name).write_bytes((header + rows).encode(encoding))
    return folder / name


def said(*words):
    "What a command prints, and its exit status; in this process."
    out, err, code = io.StringIO(), io.StringIO(), 0
    out.reconfigure = lambda **kw: None
    with (
        contextlib.chdir(TOP),
        patch.object(sys, "argv", ["cvlab", *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as e:
            code = e.code or 0
    text = out.getvalue() + err.getvalue()
    return (1, text + code) if isinstance(code, str) else (code, text)


def counts(text):
    "Images per class in a report without subsets."
    lines = [line.split() for line in text.splitlines() if line.startswith("  ")]
    return {" ".join(w[:-1]): int(w[-1]) for w in lines if len(w) > 1 and w[-1].isdigit()}


# -- folders: name -> (how it is made, options, exit status, what is said)
def several(folder, *sets):
    for s in sets:
        fill(folder / s)
    return folder


def with_file(folder, name, n=1, content=None):
    for i in range(n):
        path = folder / name.format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            image().save(path, "PNG")
        else:
            path.write_bytes(content)
    return folder


def flat(folder):
    folder.mkdir(parents=True)
    for i in range(10):
        image().save(folder / f"cat.{i}.jpg")
        image("square").save(folder / f"dog.{i}.jpg")
    return folder


def tables(folder, *names, folders=("images",), images=True):
    "A CSV for each name: four cats and dogs each, by the names of files in a folder beside it."
    for k, name in enumerate(names):
        place = folder / folders[k % len(folders)]
        place.mkdir(parents=True, exist_ok=True)
        lines = ["filename,class"]
        for i, c in enumerate(("cat", "dog") * 4):
            lines.append(f"{k}-{i},{c}")
            if images:
                image(("disc", "square")[i % 2]).save(place / f"{k}-{i}.png")
        (folder / f"{name}.csv").write_text("\n".join(lines))
        if not images:
            place.rmdir()
    return folder


TABLES_OF_SETS = [
    "subset test train val",
    "cat 4 4 4",
    "train.csv: read as the subset train",
    "test.csv: its paths are relative to the folder",
]


def sets_inside(folder):
    for c in ("cat", "dog"):
        fill(folder / c, train=".png", test=".png")
    return folder


def nested(folder):
    fill(folder / "animals")
    fill(folder / "plants", rose=".png", fern=".png")
    return folder


def twelve_bits(folder):
    for k, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            deep = RNG.normal(900 + 900 * k, 300, (24, 24)).clip(0, 4095).astype(np.uint16)
            Image.fromarray(deep).save(folder / name / f"{i}.tif")
    return folder


def damaged_exif(folder):
    for i in range(4):
        (fill(folder) / "cat").mkdir(exist_ok=True)
        image().save(folder / "cat" / f"x{i}.jpg", exif=b"Exif\0\0II*\0" + b"\xff" * 40)
    return folder


FOLDERS = {
    "dev": (lambda f: several(f, "train", "dev"), [], 0, ["subset  train  val"]),
    "holdout": (
        lambda f: several(f, "Training", "valid_set", "hold-out"),
        [],
        0,
        ["subset  test  train  val"],
    ),
    "logs": (
        lambda f: with_file(several(f, "train", "test"), "logs/{}.png", 3),
        [],
        1,
        ["beside the subsets test, train there is logs", "--ignore 'logs'", "--layout classes"],
    ),
    "logs ignored": (
        lambda f: with_file(several(f, "train", "test"), "logs/{}.png", 3),
        ["--ignore", "logs"],
        0,
        ["subset  test  train"],
    ),
    "vehicles": (lambda f: fill(f, train=".png", bus=".png"), [], 0, ["train      8"]),
    "sets as classes": (
        lambda f: with_file(several(f, "train", "test"), "logs/{}.png", 3),
        ["--layout", "classes"],
        0,
        ["images of 3 classes"],
    ),
    "sets inside": (sets_inside, [], 1, ["inside the class folders"]),
    "nested": (nested, [], 0, ["animals      16", "use --depth 2"]),
    "nested, deeper": (nested, ["--depth", "2"], 0, ["fern       8", "rose       8"]),
    "flat": (flat, [], 1, ["begin with cat, dog", "--layout names"]),
    "flat, names": (flat, ["--layout", "names"], 0, ["cat        10"]),
    "flat sets": (
        lambda f: flat(f / "train") and flat(f / "test") and f,
        [],
        1,
        ["--layout names"],
    ),
    "flat sets, names": (
        lambda f: flat(f / "train") and flat(f / "test") and f,
        ["--layout", "names"],
        0,
        ["subset test train", "cat 10 10"],
    ),
    "a table beside": (
        lambda f: with_file(flat(f), "labels.csv", content=b"path,label"),
        [],
        1,
        ["but a table: name it instead of the folder"],
    ),
    "tables of sets": (lambda f: tables(f, "train", "val", "test"), [], 0, TABLES_OF_SETS),
    "tables of sets beside flat folders": (
        lambda f: tables(f, "train", "val", "test", folders=("train", "val", "test")),
        [],
        0,
        TABLES_OF_SETS,
    ),
    "a table beside tables of sets": (
        lambda f: tables(f, "train", "test", "sample_submission"),
        [],
        1,
        ["there is sample_submission.csv: leave it out with --ignore 'sample_submission.csv'"],
    ),
    "a table beside tables of sets, ignored": (
        lambda f: tables(f, "train", "test", "sample_submission"),
        ["--ignore", "sample_submission.csv"],
        0,
        ["subset test train", "cat 4 4", "dog 4 4"],
    ),
    "tables of unknown role": (
        lambda f: tables(f, "mine", "yours"),
        [],
        1,
        ["2 tables (mine.csv, yours.csv): name one of them", "rename them to train.csv"],
    ),
    "a test table without labels": (
        lambda f: with_file(tables(f, "train", "test"), "test.csv", content=b"image\n1-0.png\n"),
        [],
        1,
        ["test.csv: no column 'label'", "--ignore 'test.csv' leaves this table out"],
    ),
    "a test table without labels, ignored": (
        lambda f: tables(f, "train", "test"),
        ["--ignore", "test.csv"],
        1,
        ["but a table: name it instead of the folder", "d/train.csv"],
    ),
    "tables of sets beside class folders": (
        lambda f: fill(tables(f, "train", "test", images=False)),
        [],
        0,
        ["test.csv, train.csv not used, since the folders name the classes", "cat 8"],
    ),
    "synology": (
        lambda f: with_file(fill(f), "cat/@eaDir/{}.png/SYNOPHOTO_THUMB_M.jpg", 30),
        [],
        0,
        ["cat         8", "30 x in a folder of the system"],
    ),
    "recycle": (
        lambda f: with_file(
            with_file(with_file(fill(f), "$RECYCLE.BIN/S-1/{}.png", 3), "#recycle/{}.png"),
            "lost+found/{}.png",
        ),
        [],
        0,
        ["16 images of 2 classes"],
    ),
    "trashes": (lambda f: with_file(fill(f), ".Trashes/501/{}.png", 30), [], 0, ["16 images of 2"]),
    "jfif": (lambda f: with_file(fill(f), "cat/x{}.JFIF", 30), [], 0, ["cat        38"]),
    "no suffix": (lambda f: with_file(fill(f), "cat/x{}", 3), [], 0, ["cat        11"]),
    "numbers": (lambda f: with_file(fill(f), "cat/IMG.{}", 3), [], 0, ["cat        11"]),
    "another suffix": (
        lambda f: with_file(fill(f), "cat/{}.bak", 20),
        [],
        1,
        ["20 images would be left out", "but an image", "--ignore '*.bak'"],
    ),
    "heic": (
        lambda f: with_file(fill(f), "cat/{}.heic", 3, b"\0\0\0\x18ftypheic"),
        [],
        None,
        ["heic"],
    ),
    "12 bits": (twelve_bits, [], 0, ["12 of them used"]),
    "arrays": (
        lambda f: with_file(fill(f), "cat/{}.npy", 20, b"x"),
        [],
        1,
        ["a NumPy array; save it as PNG", "--ignore '*.npy'"],
    ),
    "arrays ignored": (
        lambda f: with_file(fill(f), "cat/{}.npy", 20, b"x"),
        ["--ignore", "*.npy"],
        0,
        ["named in data.ignore"],
    ),
    "dicom": (
        lambda f: with_file(fill(f), "cat/{}", 2, b"\0" * 128 + b"DICM"),
        [],
        0,
        ["a DICOM image"],
    ),
    "one image": (
        lambda f: with_file(fill(f), "fox/{}.png"),
        [],
        1,
        ["class 'fox' has 1", "merge the class", "--drop-small 3"],
    ),
    "one image, dropped": (
        lambda f: with_file(fill(f), "fox/{}.png"),
        ["--drop-small", "3"],
        0,
        ["images of 2 classes", "left out by data.drop_small=3: 'fox' (1)"],
    ),
    "only in test": (
        lambda f: with_file(several(f, "train", "test"), "test/fox/{}.png"),
        [],
        1,
        ["class 'fox' has 0", "--drop-small 2"],
    ),
    "only in test, dropped": (
        lambda f: with_file(several(f, "train", "test"), "test/fox/{}.png"),
        ["--drop-small", "2"],
        0,
        ["'fox' (1)"],
    ),
    "blank": (lambda f: fill(f, **{"cat ": ".png", "dog": ".png"}), [], 0, ["its class is 'cat'"]),
    "damaged EXIF": (damaged_exif, [], 0, ["its EXIF is damaged"]),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder(name, tmp_path):
    make, options, code, lines = FOLDERS[name]
    got, text = said("data", "check", make(tmp_path / "d"), *options)
    assert code in (None, got), text
    for line in lines:
        assert " ".join(line.split()) in " ".join(text.split()), text


def test_warnings_of_pillow_do_not_reach_the_user(tmp_path):
    code, out, err = cvlab("data", "check", damaged_exif(tmp_path / "d"))
    assert code == 0 and "its EXIF is damaged" in out and "Warning" not in out + err, err


@pytest.mark.parametrize("suffix", [".avif", ".jp2", ".jfif"])
def test_other_formats_are_read(suffix, tmp_path):
    form = {".avif": "AVIF", ".jp2": "JPEG2000", ".jfif": "JPEG"}[suffix]
    for i in range(8):
        (fill(tmp_path) / "cat").mkdir(exist_ok=True)
        try:
            image().save(tmp_path / "cat" / f"x{i}{suffix}", form)
        except (KeyError, OSError):
            pytest.skip(f"this Pillow has no {form}")
    assert counts(said("data", "check", tmp_path)[1])["cat"] == 16


def test_heic_is_read_with_the_extra(tmp_path):
    pytest.importorskip("pillow_heif", reason="the extra `heic` is not installed")
    for i in range(8):
        (fill(tmp_path) / "cat").mkdir(exist_ok=True)
        image().save(tmp_path / "cat" / f"x{i}.HEIC", "HEIF")
    assert counts(said("data", "check", tmp_path)[1])["cat"] == 16


def test_twelve_bits_are_not_dark(tmp_path):
    from cvlab.data.samples import decode

    twelve_bits(tmp_path)
    assert 40 < decode(tmp_path / "cat" / "0.tif", 24).mean() < 80  # 900 of 4095
    assert 90 < decode(tmp_path / "dog" / "0.tif", 24).mean() < 140


# -- tables: name -> (arguments of `table`, options, exit status, what is said)
def plain(c, i):
    return f"{c}/{i:03}.png,{c}\n"


TABLES = {
    "semicolon": (
        dict(line=lambda c, i: f"{c}/{i:03}.png;{c}\n", header="path;label\n"),
        [],
        0,
        ["separated by ';'"],
    ),
    "tab": (
        dict(line=lambda c, i: f"{c}/{i:03}.png\t{c}\n", header="path\tlabel\n", name="t.tsv"),
        [],
        0,
        [],
    ),
    "utf-16": (dict(line=plain, encoding="utf-16"), [], 0, ["UTF-16"]),
    "cp1252": (
        dict(
            line=lambda c, i: f"{c}/{i:03}.png,{'Löwe' if c == 'cat' else c}\n", encoding="cp1252"
        ),
        [],
        0,
        ["cp1252"],
    ),
    "no header": (dict(line=plain, header=""), [], 0, ["no header"]),
    "filename, class": (dict(line=plain, header="filename,class\n"), [], 0, ["filename as path"]),
    "image, target": (dict(line=plain, header="image,target\n"), [], 0, []),
    "file, category": (dict(line=plain, header="File,Category\n"), [], 0, []),
    "backslashes": (dict(line=lambda c, i: f"{c}\\{i:03}.png,{c}\n"), [], 0, []),
    "blanks": (
        dict(line=lambda c, i: f" {c}/{i:03}.png, {c}\n", header="path, label\n"),
        [],
        0,
        [],
    ),
    "unnamed first": (
        dict(line=lambda c, i: f"{i},{plain(c, i)}", header=",path,label\n"),
        [],
        0,
        ["not used: column 1 (without a name)"],
    ),
    "longer rows": (
        dict(line=lambda c, i: f"{c}/{i:03}.png,{c},x\n"),
        [],
        1,
        ["line 2 has 3 fields"],
    ),
    "one longer row": (
        dict(line=lambda c, i: plain(c, i).replace("\n", ",x\n" * (i == 3) or "\n")),
        [],
        1,
        ["line 5 has 3 fields"],
    ),
    "twice": (
        dict(line=lambda c, i: f"{c}/{i:03}.png,{c},{c}\n", header="path,label,label\n"),
        [],
        1,
        ["'label' is there twice"],
    ),
    "no suffix": (dict(line=lambda c, i: f"{c}/{i:03},{c}\n"), [], 0, ["written otherwise"]),
    "upper case": (dict(line=lambda c, i: f"{c}/{i:03}.PNG,{c}\n"), [], 0, ["written otherwise"]),
    "unused": (
        dict(line=lambda c, i: f"{c}/{i:03}.png,{c},7\n", header="path,label,camera\n"),
        [],
        0,
        ["not used: camera"],
    ),
    "folds": (
        dict(line=lambda c, i: f"{c}/{i:03}.png,{c},{i % 4}\n", header="path,label,kfold\n"),
        [],
        0,
        ["kfold as fold", "4 published folds: `cvlab crossval` uses them with crossval.folds=4"],
    ),
    "folds with a gap": (
        dict(line=lambda c, i: f"{c}/{i:03}.png,{c},{i % 4 or ''}\n", header="path,label,fold\n"),
        [],
        0,
        ["not used: fold", "folds are two numbers or more, one for each image"],
    ),
    "folds called split": (
        dict(line=lambda c, i: f"{c}/{i:03}.png,{c},{i % 4}\n", header="path,label,split\n"),
        [],
        1,
        ["a column of numbered folds is called fold"],
    ),
    "several classes": (
        dict(line=lambda c, i: f"{c}/{i:03}.png,{'cat dog' if i == 1 else c}\n"),
        [],
        1,
        ["line 3: the label 'cat dog' names several classes"],
    ),
    "one-hot": (
        dict(
            line=lambda c, i: f"{c}/{i:03}.png,{int(c == 'cat')},{int(c == 'dog')}\n",
            header="path,cat,dog\n",
        ),
        [],
        1,
        ["one column per class (cat, dog)"],
    ),
    "NA": (
        dict(line=lambda c, i: f"{c}/{i:03}.png,{'NA' if i == 1 else c}\n"),
        [],
        1,
        ["--na missing", "NA (2)"],
    ),
    "NA missing": (
        dict(line=lambda c, i: f"{c}/{i:03}.png,{'NA' if i == 1 else c}\n"),
        ["--na", "missing"],
        0,
        ["a missing label, as data.na says", "14 images of 2"],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table(name, tmp_path):
    kw, options, code, lines = TABLES[name]
    got, text = said("data", "check", table(tmp_path, **kw), *options)
    assert got == code, text
    if not code and not any("images of" in line for line in lines):
        assert "16 images of 2 classes" in text, text
    for line in lines:
        assert line in text, text


def test_na_can_be_a_class(tmp_path):
    csv = table(tmp_path, lambda c, i: f"{c}/{i:03}.png,{'NA' if c == 'cat' else 'ZA'}\n")
    code, text = said("data", "check", csv, "--na", "class")
    assert code == 0 and counts(text) == {"NA": 8, "ZA": 8}


@pytest.mark.parametrize("column", ["split", "set", "subset", "fold"])
def test_a_column_of_subsets_is_honoured(column, tmp_path):
    csv = table(
        tmp_path,
        lambda c, i: f"{c}/{i:03}.png,{c},{'test' if i > 5 else 'Training'}\n",
        f"path,label,{column}\n",
    )
    run_inline(
        "prepare", tmp_path / "run" / "prepare", [*SMOKE, f"data.path={csv}", "split.val=0.3"]
    )
    split = pd.read_csv(tmp_path / "run" / "prepare" / "split.csv", dtype=str)
    assert set(split.path[split.subset == "test"]) == {
        f"{c}/{i:03}.png" for c in ("cat", "dog") for i in (6, 7)
    }


def test_tables_of_sets_are_trained_on(tmp_path):
    folder = tables(tmp_path / "d", "train", "val", "test")
    run_inline("prepare", tmp_path / "run" / "prepare", [*SMOKE, f"data.path={folder}"])
    split = pd.read_csv(tmp_path / "run" / "prepare" / "split.csv", dtype=str)
    for k, subset in enumerate(("train", "val", "test")):
        paths = {f"images/{k}-{i}.png" for i in range(8)}
        assert set(split.path[split.subset == subset]) == paths


def test_a_table_of_a_set_names_those_beside_it(tmp_path):
    folder = tables(tmp_path / "d", "train", "val")
    code, text = said("data", "check", folder / "train.csv")
    assert code == 0 and "val.csv beside train.csv not used; name the folder" in text, text


def test_an_absolute_path_inside_the_folder_is_read(tmp_path):
    csv = table(tmp_path, lambda c, i: f"{tmp_path}/{c}/{i:03}.png,{c}\n")
    assert "16 images of 2 classes" in said("data", "check", csv)[1]


def test_two_labels_for_one_image_refuse_both(tmp_path):
    csv = table(tmp_path, plain)
    csv.write_text(csv.read_text() + "cat/000.png,dog\n./dog/001.png,cat\n")
    code, text = said("data", "check", csv)
    assert (
        code == 1 and "14 images of 2 classes" in text and text.count("named with two labels") == 4
    )


def test_links_are_taken_when_asked(tmp_path):
    real = fill(tmp_path / "real")
    (tmp_path / "folders").mkdir()
    (tmp_path / "files").mkdir()
    for c in ("cat", "dog"):
        (tmp_path / "folders" / c).symlink_to(real / c)
        (tmp_path / "files" / c).mkdir()
        for f in (real / c).iterdir():
            (tmp_path / "files" / c / f.name).symlink_to(f)
    for name in ("folders", "files"):
        code, text = said("data", "check", tmp_path / name)
        assert code == 1 and "--follow-links takes them" in text, text
        code, text = said("data", "check", tmp_path / name, "--follow-links")
        assert code == 0 and f"8 image(s) are links into {real / 'cat'}" in text, text


def test_a_name_that_is_not_utf8_is_read_and_shown(tmp_path):
    folder = fill(tmp_path / "d")
    os.rename(bytes(folder / "dog"), bytes(folder) + b"/d\xf6g")
    os.rename(bytes(folder / "cat" / "000.png"), bytes(folder / "cat") + b"/\xe9.png")
    code, text = said("data", "check", folder)
    assert code == 0 and r"d\xf6g       8" in text and "16 images" in text, text
    # all the way: decoded, trained on
    own = [*SMOKE, f"data.path={folder}", "split.val=0.3", "split.test=0.3"]
    run_inline("prepare", tmp_path / "run" / "prepare", own)
    split = pd.read_csv(tmp_path / "run" / "prepare" / "split.csv", dtype=str)
    assert r"d\xf6g" in set(split.label) and r"cat/\xe9.png" in set(split.path)
    run_inline("leakage", tmp_path / "run" / "leakage", [*own, "leakage.planted=8"])


# -- the same options decide what is trained on
USED = {
    "data.layout=names": (flat, {"cat", "dog"}),
    "data.depth=2": (nested, {"cat", "dog", "fern", "rose"}),
    "data.ignore=[fox]": (lambda f: with_file(fill(f), "fox/{}.png"), {"cat", "dog"}),
    "data.drop_small=3": (lambda f: with_file(fill(f), "fox/{}.png"), {"cat", "dog"}),
}


@pytest.mark.parametrize("override", USED)
def test_what_is_checked_is_trained_on(override, tmp_path):
    make, labels = USED[override]
    own = [*SMOKE, f"data.path={make(tmp_path / 'd')}", "split.val=0.25", "split.test=0.25"]
    run_inline("prepare", tmp_path / "run" / "prepare", [*own, override])
    split = pd.read_csv(tmp_path / "run" / "prepare" / "split.csv", dtype=str)
    assert set(split.label) == labels


def test_na_and_links_decide_what_is_trained_on(tmp_path):
    csv = table(tmp_path / "d", lambda c, i: f"{c}/{i:03}.png,{'None' if i < 4 else c}\n")
    (tmp_path / "links").mkdir()
    for c in ("cat", "dog"):
        (tmp_path / "links" / c).symlink_to(tmp_path / "d" / c)
    for override, source, labels in [
        ("data.na=class", csv, {"cat", "dog", "None"}),
        ("data.na=missing", csv, {"cat", "dog"}),
        ("data.follow_links=true", tmp_path / "links", {"cat", "dog"}),
    ]:
        own = [*SMOKE, f"data.path={source}", "split.val=0.25", "split.test=0.25", override]
        run_inline("prepare", tmp_path / override / "prepare", own)
        split = pd.read_csv(
            tmp_path / override / "prepare" / "split.csv", dtype=str, keep_default_na=False
        )
        assert set(split.label) == labels


def test_a_regression_has_no_small_classes(tmp_path):
    code, text = said(
        "train", "--data", table(tmp_path, plain), "task=regression", "--drop-small", 3
    )
    assert code == 1 and "data.drop_small=3: not with task=regression; set it to 0" in text, text


@pytest.mark.parametrize("command", ["train --data", "crossval --data", "advise"])
def test_the_options_reach_every_command(command, tmp_path):
    asked = "--depth 2 --ignore a --ignore b --na class --follow-links --drop-small 4 --layout sets --decisions none"
    name = command.split()[0]
    with patch(f"cvlab.cli.api.{name}", side_effect=SystemExit(0)) as called:
        said(*command.split(), tmp_path, *asked.split())
    got = [*called.call_args.args[3:], *called.call_args.kwargs.get("overrides", [])]
    text = str(got)
    for k, v in dict(
        depth="2",
        ignore='["a", "b"]',
        na='"class"',
        follow_links="true",
        drop_small="4",
        layout='"sets"',
        decisions='"none"',
    ).items():
        assert f"data.{k}={v}" in text, text
    assert len(Reading.__dataclass_fields__) == 7


def test_other_images_are_read_like_those_of_the_run(tmp_path):
    from cvlab.core.io import write_text
    from cvlab.evaluation.predict import _reading_of_run
    from cvlab.runs.paths import RunPaths
    from cvlab.runs.run import yaml_text

    paths = RunPaths(tmp_path)
    data = dict(path="x", depth=2, na="class", layout="sets", drop_small=3)
    write_text(paths.params, yaml_text(dict(requested=dict(data=data))))
    how = _reading_of_run(paths.stage("weights"))
    assert how == Reading(depth=2, na="class"), how
    assert _reading_of_run(tmp_path / "elsewhere") == Reading()


def test_predict_reads_images_only(tmp_path):
    from cvlab.data.samples import images_in

    folder = fill(tmp_path)
    for name in ("cat/._000.png", "cat/@eaDir/000.png/x.jpg", ".hidden/1.png", "__MACOSX/1.png"):
        with_file(folder, name, content=b"\0\5\x16\7")
    (folder / "dog" / "x.png").mkdir()
    with_file(folder, "cat/bare")
    assert len(images_in([folder])) == 17


def test_dvcs_own_links_are_read(tmp_path):
    "With `cache.type symlink`, every image of data/ is a link into DVC's cache."
    import subprocess

    from conftest import BIN

    def dvc(*words):
        subprocess.run([BIN / "dvc", *words], cwd=tmp_path, check=True, capture_output=True)

    fill(tmp_path / "data")
    dvc("init", "-q", "--no-scm")
    dvc("config", "cache.type", "symlink")
    dvc("add", "-q", "data")
    dvc("checkout", "-q", "--relink")
    assert (tmp_path / "data" / "cat" / "000.png").is_symlink()
    code, text = said("data", "check", tmp_path / "data")
    assert code == 0 and "16 images of 2 classes" in text, text
