"Faults are planted one at a time in a clone without data or weights; verify names each of them."

import json
import re
import shutil
import time

import pandas as pd
import pytest
from conftest import BIN, TOP, clone_into, sh

from cvlab.evidence.verify import (
    Lab,
    check_classes,
    check_page,
    check_stage,
    lock_problems,
    measured_line,
)

EVALUATE, TRAIN = "runs/evaluate/default/seed-0", "runs/train/default/seed-0"
INDEX = "runs/report/claims.csv"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return clone_into(tmp_path_factory.mktemp("verify") / "cvlab")


@pytest.fixture
def clone(published):
    yield published
    sh(published, "git", "checkout", "-q", "--", ".")
    sh(published, "git", "clean", "-fdq")


def test_a_fresh_clone_holds(published):
    started = time.time()
    done = sh(published, BIN / "cvlab", "verify")
    assert re.search(
        r"^[1-9]\d* verified, \d+ re-trainable, \d+ unverifiable, 0 drift; \d+ s$",
        done.stdout,
        re.M,
    )
    assert "train@default-0" in done.stdout and "runs/measured/" in done.stdout
    assert "detect/evaluate@faster_rcnn-1" in done.stdout
    assert sh(published, "git", "status", "--porcelain").stdout == "", "looking changes nothing"
    print(f"{time.time() - started:.0f} s")


def replace(old, new, count=1):
    "A fault that changes a text."

    def plant(path):
        text = path.read_text()
        assert old in text, (path, old)
        path.write_text(text.replace(old, new, count))

    return plant


def digit(pattern):
    "A fault that raises the last digit of what a pattern finds in a text."

    def plant(path):
        text = path.read_text()
        m = re.search(pattern, text)
        assert m, (path, pattern)
        path.write_text(text[: m.end(1) - 1] + str((int(m[1][-1]) + 1) % 10) + text[m.end(1) :])

    return plant


def table(change):
    "A fault that changes a CSV."

    def plant(path):
        t = pd.read_csv(path, dtype=str, keep_default_na=False)
        change(t)
        t.to_csv(path, index=False, lineterminator="\n")

    return plant


def swap_parts(t):
    a, b = t.index[t.subset == "train"][0], t.index[t.subset == "test"][0]
    t.loc[a, "subset"], t.loc[b, "subset"] = "test", "train"


def copy_into_test(t):
    t.loc[t.index[t.subset == "test"][0], ["id", "path"]] = t.loc[
        t.index[t.subset == "train"][0], ["id", "path"]
    ]


def right_instead(t):  # the first wrong test image becomes right
    logits = [c for c in t if c.startswith("logit_")]
    for i, row in t[t.subset == "test"].iterrows():
        if max(logits, key=lambda c: float(row[c])) != f"logit_{row.label}":
            t.loc[i, logits] = ["9" if c == f"logit_{row.label}" else "-9" for c in logits]
            return


def lower_loss(t):
    t.loc[t.index[-1], "val_loss"] = "0.0123"


def from_other(name):
    return lambda path: shutil.copyfile(path.parents[1] / "seed-1" / name, path)


def append(text):
    return lambda path: path.write_text(path.read_text() + text)


def gone(path):
    path.unlink()


def keep_lines(keep):
    return lambda path: path.write_text("".join(filter(keep, path.read_text().splitlines(True))))


def drop_line(word):
    return keep_lines(lambda line: word not in line)


def drop_row(start):
    return keep_lines(lambda line: not line.startswith(start))


def source_of_a_cell(path):
    nb = json.loads(path.read_text())
    nb["cells"][-1]["source"] = "print('all is well')"
    path.write_text(json.dumps(nb))


def output_of_a_cell(path):
    nb = json.loads(path.read_text())
    out = next(
        o for c in nb["cells"][::-1] for o in c.get("outputs", []) if o["output_type"] == "stream"
    )
    out["text"] = "0 of 150 test images are named wrongly\n"
    path.write_text(json.dumps(nb))


def prose(text):
    def plant(path):
        nb = json.loads(path.read_text())
        next(c for c in nb["cells"] if c["cell_type"] == "markdown")["source"] += f"\n{text}"
        path.write_text(json.dumps(nb))

    return plant


def older_lock(path):  # a stage's own entry says it read other data
    text = path.read_text()
    md5 = re.search(r"path: data\n\s+hash: md5\n\s+md5: (\w+)", text)[1]
    path.write_text(text.replace(md5, "0" * 32, 1))


# name: (file, fault, stage or page that shows it, message, whether dvc.lock alone reveals it)
FAULTS = {
    "changed digit in a claim": (
        "README.md",
        digit(r"\| default \| (\d\.\d+)"),
        "README.md",
        "drifted: the text says",
        False,
    ),
    "unregistered number": (
        "README.md",
        append("\nWe reach 0.999.\n"),
        "README.md",
        "unregistered number 0.999",
        False,
    ),
    "edited number of a study": (
        "results/xray.md",
        digit(r"colour histogram\* \| 224 \| (\d+)"),
        "results/xray.md",
        "claim xray.histogram:wrong is",
        False,
    ),
    "edited cell of a table": (
        "results/runs.md",
        digit(r"\| lr_too_high \| 0 \| 12 \| \d+ \| (\d\.\d+)"),
        "results/runs.md",
        "claim histories:7.train_loss is",
        False,
    ),
    "number without a claim": (
        INDEX,
        keep_lines(lambda line: not re.match(r"README.md,.*,accuracy.default$", line)),
        "README.md",
        "unregistered number",
        False,
    ),
    "index names another claim": (
        INDEX,
        replace(",accuracy.default\n", ",accuracy.lr_too_high\n"),
        "README.md",
        "drifted: the text says",
        False,
    ),
    "claim that nobody knows": (
        INDEX,
        replace(",accuracy.default\n", ",accuracy.best\n"),
        "README.md",
        "unknown claim",
        False,
    ),
    "edited index": (
        INDEX,
        append("README.md,1,1,cvlab,accuracy.default\n"),
        "report",
        "runs/report: is not what",
        True,
    ),
    "dead link": (
        "README.md",
        append("\n[more](docs/more.md)\n"),
        "README.md",
        "dead link docs/more.md",
        False,
    ),
    "dead heading": (
        "README.md",
        append("\n[more](TRAINING_RESULTS.md#our-best)\n"),
        "README.md",
        "no such heading",
        False,
    ),
    "figure of no stage": (
        "README.md",
        append("\n![better](nbs/pages/index.ipynb)\n"),
        "README.md",
        "is not the output of a stage",
        False,
    ),
    "number in a pipeline notebook": (
        "nbs/pipeline/compare.ipynb",
        prose("The default reaches 0.99."),
        "nbs/pipeline/compare.ipynb",
        "unregistered number 0.99",
        False,
    ),
    "number in a tutorial": (
        "nbs/tutorials/bring_your_own.ipynb",
        prose("Expect 97 %."),
        "nbs/tutorials/bring_your_own.ipynb",
        "unregistered number 97 %",
        False,
    ),
    "formula of a claim": (
        "nbs/pages/claims.yaml",
        replace('formula: "mean({m})"', 'formula: "mean( {m})"'),
        "report",
        "nbs/pages/claims.yaml: is not what",
        True,
    ),
    "swapped split": (
        "runs/prepare/split.csv",
        table(swap_parts),
        "evaluate@default-0",
        "not of this split",
        False,
    ),
    "swapped split, by its hash": (
        "runs/prepare/split.csv",
        table(swap_parts),
        "prepare",
        "params.yaml: split",
        False,
    ),
    "image copied into test": (
        "runs/prepare/split.csv",
        table(copy_into_test),
        "prepare",
        "occurs twice",
        False,
    ),
    "edited prediction": (
        f"{EVALUATE}/predictions.csv",
        table(right_instead),
        "evaluate@default-0",
        "metrics.json: test.",
        False,
    ),
    "edited prediction of the validation set": (
        f"{EVALUATE}/predictions.csv",
        table(lambda t: t.loc.__setitem__((t.index[t.subset == "val"][0], "logit_grass"), "40")),
        "evaluate@default-0",
        "the kept epoch had",
        False,
    ),
    "edited metric": (
        f"{EVALUATE}/metrics.json",
        digit(r'"accuracy": (0\.\d\d)'),
        "evaluate@default-0",
        "metrics.json: ",
        False,
    ),
    "edited metric of a baseline": (
        "runs/baseline/metrics.json",
        digit(r'"log_loss": (0\.\d\d)'),
        "baseline",
        "metrics.json: ",
        False,
    ),
    "edited baseline": (
        "runs/baseline/majority.csv",
        digit(r"test,dandelion,(-0\.\d\d)"),
        "baseline",
        "majority.csv: not the majority",
        False,
    ),
    "swapped figure": (
        f"{EVALUATE}/results.png",
        from_other("results.png"),
        "evaluate@default-0",
        "results.png: is not the figure",
        False,
    ),
    "stale figure": (
        f"{EVALUATE}/confusion_matrix.png",
        lambda p: shutil.copyfile(p.parents[2] / "lr_too_high/seed-0/confusion_matrix.png", p),
        "evaluate@default-0",
        "confusion_matrix.png: is not the figure",
        False,
    ),
    "swapped images": (
        f"{EVALUATE}/worst.png",
        from_other("worst.png"),
        "evaluate@default-0",
        "seed-0: is not what",
        True,
    ),
    "edited history": (
        f"{TRAIN}/results.csv",
        table(lower_loss),
        "evaluate@default-0",
        "the kept epoch had",
        False,
    ),
    "edited history, against the log": (
        f"{TRAIN}/results.csv",
        table(lower_loss),
        "train@default-0",
        "train.log: epoch 12",
        False,
    ),
    "edited log": (
        f"{TRAIN}/train.log",
        digit(r"val accuracy (0\.\d+)"),
        "train@default-0",
        "train.log: epoch 1",
        False,
    ),
    "epoch removed": (
        f"{TRAIN}/results.csv",
        drop_row("4,"),
        "train@default-0",
        "do not count up",
        False,
    ),
    "edited prediction out of fold": (
        "runs/crossval/oof.csv",
        table(lambda t: t.loc.__setitem__((0, "logit_grass"), "40")),
        "crossval",
        "scores.csv: ",
        False,
    ),
    "image judged by another fold": (
        "runs/crossval/oof.csv",
        table(lambda t: t.loc.__setitem__((0, "fold"), str((int(t.fold[0]) + 1) % 5))),
        "crossval",
        "oof.csv: not exactly one prediction",
        False,
    ),
    "edited mean over folds": (
        "runs/crossval/summary.csv",
        table(lambda t: t.loc.__setitem__((0, "mean"), "0.99")),
        "crossval",
        "summary.csv: mean",
        False,
    ),
    "edited answer of the folds together": (
        "runs/crossval/test_predictions.csv",
        table(lambda t: t.loc.__setitem__((0, "logit_grass"), "40")),
        "crossval",
        "the average differs from that of the single models",
        False,
    ),
    "edited range test": (
        "runs/lr_find/lr.json",
        digit(r'"lr": (0\.\d+)'),
        "lr_find",
        "runs/lr_find: is not what",
        True,
    ),
    "edited range test, coarsely": (
        "runs/lr_find/lr.json",
        replace('"lr": 0.00', '"lr": 0.01'),
        "lr_find",
        "lr.json: lr",
        False,
    ),
    "edited executed notebook": (
        f"{EVALUATE}/evaluate.ipynb",
        output_of_a_cell,
        "evaluate@default-0",
        "seed-0: is not what",
        True,
    ),
    "other cells in an executed notebook": (
        f"{EVALUATE}/evaluate.ipynb",
        source_of_a_cell,
        "evaluate@default-0",
        "other cells than",
        False,
    ),
    "notebook of another seed": (
        f"{EVALUATE}/evaluate.ipynb",
        from_other("evaluate.ipynb"),
        "evaluate@default-0",
        "was run with seed=1",
        False,
    ),
    "wrong seed": (
        f"{EVALUATE}/predictions.csv",
        from_other("predictions.csv"),
        "evaluate@default-0",
        "the same as those of seed-1",
        False,
    ),
    "parameters of a run": (
        f"{TRAIN}/params.yaml",
        replace("lr: 0.003", "lr: 0.001"),
        "train@default-0",
        "params.yaml: ",
        False,
    ),
    "effective unlike requested": (
        f"{TRAIN}/params.yaml",
        replace("wd: 0.01", "wd: 0.02"),
        "train@default-0",
        "params.yaml: effective.optim.wd",
        False,
    ),
    "changed parameter": (
        "params.yaml",
        replace("epochs: 12", "epochs: 13"),
        "train@default-0",
        "train was modified",
        True,
    ),
    "changed experiment": (
        "params.yaml",
        replace("{lr: 10.0}", "{lr: 9.0}"),
        "train@lr_too_high-0",
        "params.yaml: ",
        False,
    ),
    "hand-made dvc.lock": (
        "dvc.lock",
        replace("md5: ", "md5: 0", 1),
        "prepare",
        "is not what the stage",
        True,
    ),
    "dvc.lock of other data": (
        "dvc.lock",
        older_lock,
        "prepare",
        "data: dvc.lock has another hash than",
        True,
    ),
    "changed data.dvc": (
        "data.dvc",
        digit(r"md5: \w*?(\d)\w*\.dir"),
        "prepare",
        "another hash than data.dvc wrote",
        True,
    ),
    "changed command": (
        "dvc.yaml",
        replace("-p out runs/prepare", "-p out runs/prepare -p seed 1"),
        "prepare",
        "the command is not the one that ran",
        True,
    ),
    "changed library": (
        "cvlab/evaluation/metrics.py",
        append("\n# better\n"),
        "evaluate@default-0",
        "cvlab/evaluation: is not what",
        True,
    ),
    "missing file": (
        f"{EVALUATE}/metrics.json",
        gone,
        "evaluate@default-0",
        "metrics.json: ",
        False,
    ),
    "ledger line removed": (
        "runs/ledger.csv",
        drop_line(",default,0,"),
        "evaluate@default-0",
        "no entry for this use of the test set",
        False,
    ),
    "ledger of fewer images": (
        "runs/ledger.csv",
        replace(",150,evaluate,default,0,", ",140,evaluate,default,0,"),
        "evaluate@default-0",
        "140 test images were used",
        False,
    ),
    "description of other outputs": (
        f"{EVALUATE}/environment.json",
        from_other("environment.json"),
        "evaluate@default-0",
        "environment.json: describes other",
        False,
    ),
    "edited reliability diagram": (
        f"{EVALUATE}/reliability.png",
        from_other("reliability.png"),
        "evaluate@default-0",
        "reliability.png: is not the figure",
        False,
    ),
    "leak struck from the leakage report": (
        "runs/leakage/leakage_report.json",
        replace('"severity": "shortcut"', '"severity": "note"'),
        "leakage",
        "leakage_report.json: findings.",
        False,
    ),
    "other score of a shortcut": (
        "runs/leakage/probes.csv",
        table(lambda t: t.loc.__setitem__((t.index[t.probe == "colour"][0], "score"), "0.5")),
        "leakage",
        "probes.csv: colour: ",
        False,
    ),
    "other guesses of a shortcut": (
        "runs/leakage/shortcut_predictions.csv",
        table(lambda t: t.loc.__setitem__(slice(0, 40), t.loc[0:40].assign(colour=t.label[0:40]))),
        "leakage",
        "probes.csv: colour: ",
        False,
    ),
    "answers of the leak probe": (
        "runs/leakage/probe.csv",
        table(right_instead),
        "leakage",
        "accuracy.csv: ",
        False,
    ),
    "certified split": (
        "runs/leakage/split.csv",
        table(swap_parts),
        "leakage",
        "runs/leakage: is not what",
        True,
    ),
    "better heat maps": (
        "runs/interpret/pointing.csv",
        table(lambda t: t.loc.__setitem__((t.index[t.hit == "0"][0], "hit"), "1")),
        "interpret",
        "pointing.json: scores.",
        False,
    ),
    "pair of a measured leakage report": (
        "runs/measured/chest_xray/as_published/pairs.csv",
        replace(",True", ",False"),
        "runs/measured/chest_xray/as_published",
        "leakage_report.json: ",
        False,
    ),
    "measured prediction": (
        "runs/measured/chest_xray/xray_cnn/seed-0/evaluate/seed-0/predictions.csv",
        table(lambda t: t.loc.__setitem__((t.index[t.subset == "val"][0], "logit_Covid"), "40")),
        "runs/measured/chest_xray/xray_cnn",
        "the kept epoch had",
        False,
    ),
    "measured split": (
        "runs/measured/chest_xray/xray_cnn/seed-0/prepare/split.csv",
        table(swap_parts),
        "runs/measured/chest_xray/xray_cnn",
        "not of this split",
        False,
    ),
}


DETECTED = "runs/detect/evaluate/one_stage/seed-0"
FAULTS |= {
    "edited detection": (
        f"{DETECTED}/detections.csv",
        table(lambda t: t.loc.__setitem__(slice(0, 60), t.loc[0:60].assign(score="0.99"))),
        "detect/evaluate@one_stage-0",
        "metrics.json: ",
        False,
    ),
    "edited recall of a slice": (
        f"{DETECTED}/slices.csv",
        table(lambda t: t.loc.__setitem__((0, "recall"), "0.99")),
        "detect/evaluate@one_stage-0",
        "slices.csv: recall.0",
        False,
    ),
    "figure of another detector": (
        f"{DETECTED}/confusion_matrix.png",
        from_other("confusion_matrix.png"),
        "detect/evaluate@one_stage-0",
        "confusion_matrix.png: is not the figure",
        False,
    ),
    "kinder card of a detector": (
        "runs/detect/cards/one_stage/seed-0/MODEL_CARD.md",
        replace("Worst class", "Best class"),
        "detect/evaluate@one_stage-0",
        "MODEL_CARD.md: is not what",
        False,
    ),
    "edited history of a detector": (
        "runs/detect/train/one_stage/seed-0/results.csv",
        table(lower_loss),
        "detect/train@one_stage-0",
        "differs from results.csv",
        False,
    ),
    "larger difference of detectors": (
        "runs/detect/compare/effects.csv",
        table(lambda t: t.loc.__setitem__((0, "low"), "0.001")),
        "detect/compare",
        "effects.csv: low.0",
        False,
    ),
    "better detector that does not look": (
        "runs/detect/baseline/metrics.json",
        digit(r'"ap50": (0\.\d\d)'),
        "detect/baseline",
        "metrics.json: ",
        False,
    ),
}


def lines_of(root, where, locked):
    "The lines of verify for one stage, page or set of measurements."
    lab = Lab(root)
    if where.startswith("detect/"):
        return check_stage(lab.second, where.removeprefix("detect/"), [])
    if where.startswith("runs/measured"):
        return [measured_line(root / where, lab)]
    if (root / where).is_file():
        return check_page(lab, root / where)
    return check_stage(lab, where, lock_problems(lab).get(where, []) if locked else [])


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_caught_by_name(name, clone):
    file, plant, where, words, locked = FAULTS[name]
    plant(clone / file)
    lines = lines_of(clone, where, locked)
    assert any(words in line.why and line.state == "drift" for line in lines), lines


def test_every_edited_claim_is_caught(published):
    "Any digit of any number that the index binds, on any page; and of any number of a model card."
    from cvlab.evidence.claims import TOKENS, mark, problem_of, unmark
    from cvlab.evidence.pages import card_run, made_card
    from cvlab.evidence.verify import page_text, pages

    lab, n = Lab(published), 0
    read = [(p, page_text(p, lab.root), lab.claims, lab.root) for p in pages(lab)]
    for card in (published / "runs/cards").rglob("MODEL_CARD.md"):  # with claims of their own
        root, exp, seed = card_run(card)
        made, claims = made_card(root, exp, seed)
        read.append((card, mark(card.read_text(), unmark(made)[1]), claims, root))
    for page, text, claims, root in read:
        for m in TOKENS.finditer(text):
            if not m["id"] or not m["value"]:
                continue
            for k in range(m.start("value"), m.end("value")):
                if not text[k].isdigit():
                    continue
                edited = text[:k] + str((int(text[k]) + 1) % 10) + text[k + 1 : m.end() + 5]
                token = TOKENS.search(edited, m.start())
                n += 1
                assert problem_of(token, claims, root), (page.name, m[0], k)
    assert n > 2000 and len(read) > 15


KEPT = TOP / "runs" / "measured" / "grocery_fruit" / "imbalance"


@pytest.mark.parametrize(
    "name, spoil, message",
    [
        (
            "effects.csv",
            lambda t: t.assign(effect=t.effect + 0.01),
            "effects.csv: inverse, accuracy",
        ),
        (
            "effects.csv",
            lambda t: t.assign(low=t.low.clip(lower=0)),
            "effects.csv: inverse, accuracy",
        ),
        ("scores.csv", lambda t: t.assign(macro_f1=t.macro_f1.clip(lower=0.93)), "scores.csv"),
        ("oof_classes.csv", lambda t: t.assign(plain=t.label), "scores.csv"),
        ("test_classes.csv", lambda t: t[1:], "not the images of split.csv"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_kept_folds_are_recomputed(name, spoil, message, tmp_path):
    "A change of any table of images that cannot be redistributed is found."
    shutil.copytree(KEPT, tmp_path / "kept")
    table = pd.read_csv(tmp_path / "kept" / name, keep_default_na=False)
    spoil(table).to_csv(tmp_path / "kept" / name, index=False)
    assert any(message in p for p in check_classes(tmp_path / "kept"))


def test_kept_figures_are_drawn_again(tmp_path):
    "Only what was spoiled is named: the rest of the folds holds."
    shutil.copytree(KEPT, tmp_path / "kept")
    shutil.copy(KEPT / "confusion_matrix.png", tmp_path / "kept" / "folds.png")
    assert check_classes(tmp_path / "kept") == ["folds.png: is not the figure of its records"]
