"Any images in: what strangers send, the ways in, and which images are the lab's."

import shutil
import zipfile

import pandas as pd
import pytest
from conftest import BIN, clone_into, cvlab, run_inline, sh

from cvlab.core.io import LabError, file_hash, read_json
from cvlab.data.fixtures import HOSTILE, hostile_folder, tiny_folder

QUICK = ["train.epochs=1", "data.size=32", "train.batch_size=8", "evaluate.samples=8"]


def contents(folder):
    "Every file with its hash; links by where they lead."
    return {
        p.relative_to(folder).as_posix(): str(p.readlink()) if p.is_symlink() else file_hash(p)
        for p in folder.rglob("*")
        if p.is_symlink() or p.is_file()
    }


@pytest.mark.slow
def test_hostile_images_are_named_and_left_alone(tmp_path):
    folder = hostile_folder(tmp_path / "hostile")
    before = contents(folder)
    code, out, err = cvlab("data", "check", folder, "--full")
    assert code == 1 and "class 'few' has 2 different image(s)" in err
    lines = {line.strip().split(": ")[0]: line for line in out.splitlines() if ": " in line}
    for name, (verdict, why) in HOSTILE.items():
        key = f"disc/{name}".replace("\n", "\\n")
        assert (key in lines) == bool(verdict) and why in lines.get(key, ""), (name, lines.get(key))
    assert "of class square" in lines["disc/same.png"] and "link" in lines["linked"]
    assert "hidden" in lines["disc/.hidden.png"]
    assert (
        cvlab("train", "--data", folder, "--out", tmp_path / "no")[0] == 1
        and not (tmp_path / "no").exists()
    )
    shutil.rmtree(folder / "few")
    shutil.copy(folder / "disc/grey.png", folder / "disc/grey again.png")
    before = contents(folder)
    code, out, err = cvlab("train", "--data", folder, "--out", tmp_path / "run", *QUICK)
    assert code == 0 and "image(s) are skipped" in err, err
    split = pd.read_csv(tmp_path / "run/prepare/split.csv", dtype=str)
    assert {f"disc/{n}" for n, (v, _) in HOSTILE.items() if v != "refused"} <= set(split.path)
    assert not {f"disc/{n}" for n, (v, _) in HOSTILE.items() if v == "refused"} & set(split.path)
    assert contents(folder) == before, "nothing was deleted or changed"


def test_a_table_in_an_archive_decides_parts(tmp_path):
    tiny = tiny_folder(tmp_path / "tiny", n=40)
    names = sorted(p.relative_to(tiny).as_posix() for p in tiny.rglob("*.png"))
    rows = [
        f"{n},{'round' if 'disc' in n else 'edged'},{'test' if i % 4 == 0 else 'train'}"
        for i, n in enumerate(names)
    ]
    (tiny / "samples.csv").write_text("\n".join(["path,label,subset", *rows]))
    archive = shutil.make_archive(tmp_path / "mine", "zip", tmp_path, "tiny")
    quick = [*QUICK, f"data.path={archive}", "split.val=0.2"]
    for stage in ("prepare", "train", "evaluate"):
        run_inline(
            stage, tmp_path / "run" / stage / ("" if stage == "prepare" else "seed-0"), quick
        )
    split = pd.read_csv(tmp_path / "run/prepare/split.csv", dtype=str)
    assert set(split[split.subset == "test"].path) == set(names[::4]) and set(split.label) == {
        "round",
        "edged",
    }
    assert (split.subset == "val").sum() == 6, "a fifth of the thirty that were left"
    preds = pd.read_csv(tmp_path / "run/evaluate/seed-0/predictions.csv", dtype=str)
    assert (preds.subset == "test").sum() == 10 and {"logit_round", "logit_edged"} < set(
        preds.columns
    )


def test_a_table_of_images_keeps_its_parts(tmp_path):
    pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    files = sorted(tiny_folder(tmp_path / "tiny", n=40).rglob("*.png"))
    for subset, some in (("train", files[::2]), ("test", files[1::2])):
        table = pd.DataFrame(
            dict(
                image=[dict(bytes=f.read_bytes(), path=f.name) for f in some],
                label=[f.parent.name for f in some],
            )
        )
        (tmp_path / "hub/data").mkdir(parents=True, exist_ok=True)
        table.to_parquet(tmp_path / f"hub/data/{subset}-00000-of-00001.parquet")
    code, out, err = cvlab("data", "check", tmp_path / "hub")
    assert code == 0 and "40 images of 2 classes can be used" in out, err
    run_inline(
        "prepare",
        tmp_path / "run/prepare",
        [*QUICK, f"data.path={tmp_path / 'hub'}", "split.val=0.2"],
    )
    split = pd.read_csv(tmp_path / "run/prepare/split.csv", dtype=str)
    assert split.subset.value_counts().to_dict() == {"test": 20, "train": 16, "val": 4}
    assert set(split.label) == {"disc", "square"}


def test_an_archive_that_leads_out_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as z:
        z.writestr("../../evil.png", "x")
    for command in (["data", "check"], ["train", "--data"]):
        code, _, err = cvlab(*command, tmp_path / "evil.zip")
        assert (
            code == 1 and "leads out of the archive; nothing was unpacked" in err.splitlines()[-1]
        )
    assert not list(tmp_path.parent.rglob("evil.png"))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return clone_into(tmp_path_factory.mktemp("lab") / "cvlab")


@pytest.mark.slow
def test_other_images_become_the_labs_and_travel(clone, tmp_path):
    committed = (clone / "data.dvc").read_bytes()

    def run(*a, **kw):
        return sh(clone, BIN / "cvlab", "data", *a, **kw)

    tiny = tiny_folder(tmp_path / "tiny")
    (tiny / "notes.txt").touch()
    assert "not the suffix of an image" in run("add", tiny).stdout
    assert sh(clone, "git", "status", "--porcelain").stdout == " M data.dvc\n"
    assert (clone / "data.dvc").read_bytes() != committed
    mine = contents(clone / "data")
    assert len(mine) == 48
    # to a remote, and back into a clone that has nothing; weights go the same way
    sh(clone, BIN / "dvc", "remote", "add", "-q", "-d", "store", tmp_path / "store")
    sh(clone, BIN / "dvc", "push", "-q", "data.dvc")
    shutil.rmtree(clone / "data")
    shutil.rmtree(clone / ".dvc" / "cache")
    sh(clone, BIN / "dvc", "pull", "-q", "data.dvc")
    assert contents(clone / "data") == mine
    (clone / "data" / "disc" / "new.png").write_bytes((tiny / "disc" / "000.png").read_bytes())
    refused = run("use", "meadow", check=False)
    assert refused.returncode == 1 and "changed since data.dvc was written" in refused.stderr
    assert len(contents(clone / "data")) == 49
    (clone / "data" / "disc" / "new.png").unlink()
    run("use", "meadow")
    assert (clone / "data.dvc").read_bytes() == committed and len(contents(clone / "data")) == 1002


@pytest.mark.slow
def test_a_published_set_comes_from_a_repository_of_its_shape(clone, tmp_path):
    theirs = tiny_folder(tmp_path / "theirs" / "data", n=20).parent
    (theirs / "data" / "model.h5").write_text("other files")
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "x"],
    ):
        sh(theirs, "git", *words)
    at = sh(theirs, "git", "rev-parse", "HEAD").stdout.strip()
    done = sh(clone, BIN / "cvlab", "data", "import", "dandelion", "--url", theirs, "--rev", at)
    assert "No licence file" in done.stdout and at in (clone / "data.dvc").read_text()
    out = cvlab("data", "check", clone / "data")
    assert "20 images of 2 classes" in out[1] and "model.h5" in out[1] and out[0] == 0
    done = sh(
        clone,
        BIN / "cvlab",
        "data",
        "import",
        "dandelion",
        "--url",
        tmp_path / "nowhere",
        check=False,
    )
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert "be online, or name a copy" in done.stderr
    assert len(contents(clone / "data")) == 21, "what was there stays"


def test_a_published_split_is_certified_and_a_leak_stops_when_told(tmp_path, capsys):
    "The lab's intake puts the copy aside; in the parts as they came it is found, and `fail` stops when all is written."
    files = sorted(tiny_folder(tmp_path / "tiny", n=40).rglob("*.png"))
    for i, f in enumerate(files):
        to = tmp_path / "parts" / ("test" if i % 4 == 0 else "train") / f.parent.name / f.name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f, to)
    shutil.copy(files[0], tmp_path / "parts/train/disc/copy.png")
    quick = [*QUICK, f"data.path={tmp_path / 'parts'}", "split.val=0.2", "leakage.planted=8"]
    run_inline("prepare", tmp_path / "run/prepare", quick)
    run_inline("leakage", tmp_path / "run/leakage", [*quick, "leakage.action=fail"])
    ours = read_json(tmp_path / "run/leakage/leakage_report.json")
    assert ours["same_across"] == [] and ours["n"] == 40
    run_inline("leakage", tmp_path / "run/leakage", [*quick, "leakage.split=published"])
    theirs = read_json(tmp_path / "run/leakage/leakage_report.json")
    assert (
        theirs["same_across"] == [["test/disc/" + files[0].name, "train/disc/copy.png"]]
        and theirs["n"] == 41
    )
    assert (
        len(theirs["leaking"]["test"]) == 1
        and "1 of 10 test images leak" in capsys.readouterr().out
    )
    (tmp_path / "run/leakage/leakage_report.json").unlink()
    with pytest.raises(LabError, match="1 pair of the same image in two subsets, such as"):
        run_inline(
            "leakage",
            tmp_path / "run/leakage",
            [*quick, "leakage.split=published", "leakage.action=fail"],
        )
    assert read_json(tmp_path / "run/leakage/leakage_report.json") == theirs, (
        "written before it stops"
    )
