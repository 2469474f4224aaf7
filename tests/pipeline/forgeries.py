"""Consistent forgeries of the repository's results: each is planted in a copy with its data and weights, every file that
`cvlab verify` recomputes is made to agree, and `dvc commit -f` renews the hashes.
`python tests/pipeline/forgeries.py FOLDER [name ...]` prints which modes of verify name them."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests"))

from conftest import clone_into, sh  # noqa: E402

EVALUATE, TRAIN = "runs/evaluate/default/seed-0", "runs/train/default/seed-0"
WEIGHTS = "runs/weights/default/seed-0"


def copy_into(folder):
    "The repository with git's files, its data and its weights."
    root = clone_into(Path(folder))
    for name in ("data", "runs/weights"):
        if (TOP / name).exists():
            shutil.copytree(TOP / name, root / name)
    return root


def commit(root):
    "What the forger does last: the hashes of dvc.lock follow the files. DVC needs the data and the weights for it."
    if not (root / "data").exists() or not (root / WEIGHTS).exists():
        return
    # the second pipeline is left alone: its images and weights are not copied
    sh(root, sys.executable, "-m", "dvc", "commit", "-f", "-q", "dvc.yaml")


DOWNSTREAM = True  # False: leave out the stages after the forged one, which a test of one stage does not need


def again(root, *stages):
    "Run stages as DVC would, so that everything after the forged file agrees with it."
    if not DOWNSTREAM:
        return
    for name in stages:
        done = json.loads(
            subprocess.run(
                [sys.executable, "-c", _CMD, name], cwd=root, capture_output=True, text=True
            ).stdout
        )
        sh(root, *[sys.executable if w == "python" else w for w in done.split()])


_CMD = "import sys, json; from cvlab.evidence.verify import locked; print(json.dumps(locked()[sys.argv[1]]['cmd']))"


def edit(path, change):
    t = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(t)
    t.to_csv(path, index=False, lineterminator="\n")


def edit_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def seal(folder):
    "The descriptions of a folder's outputs follow its files."
    from cvlab.core.repro import folder_digest

    edit_json(
        folder / "environment.json", lambda e: e.__setitem__("outputs", folder_digest(folder))
    )


def right_instead(t, most=3):
    "The first wrong test images become right."
    logits, n = [c for c in t if c.startswith("logit_")], 0
    for i, row in t[t.subset == "test"].iterrows():
        best = max(logits, key=lambda c: float(row[c]))
        if best != f"logit_{row.label}" and n < most:
            t.loc[i, [best, f"logit_{row.label}"]] = row[[f"logit_{row.label}", best]].tolist()
            n += 1
    assert n, "nothing was wrong"


def restate(root, folder):
    "Metrics and figures of an evaluation follow its forged predictions."
    from cvlab.core.io import write_json
    from cvlab.core.style import figure_png, use_lab_style
    from cvlab.data.samples import read_split, split_hash
    from cvlab.evaluation.compare import calibration
    from cvlab.evaluation.metrics import evaluate, read_predictions
    from cvlab.explain.plot_confusion import plot_confusions
    from cvlab.explain.plots import plot_reliability

    preds = read_predictions(folder / "predictions.csv")
    split = split_hash(read_split(root / "runs/prepare/split.csv"))
    metrics = {s: evaluate(preds, s) | {"split": split} for s in ("val", "test")}
    write_json(folder / "metrics.json", metrics)
    use_lab_style(100)
    test = metrics["test"]
    for name, fig in (
        ("confusion_matrix", plot_confusions(test["confusion_matrix"], test["classes"])),
        ("reliability", plot_reliability(calibration(preds))),
    ):
        (folder / f"{name}.png").write_bytes(figure_png(fig))
    seal(folder)


def output(path, text="0 of 150 test images are classified wrongly\n"):
    "Change what a cell of an executed notebook printed."
    nb = json.loads(path.read_text())
    out = next(
        o for c in nb["cells"][::-1] for o in c.get("outputs", []) if o["output_type"] == "stream"
    )
    out["text"] = text
    path.write_text(json.dumps(nb, indent=1))


def predictions(root):
    edit(root / EVALUATE / "predictions.csv", right_instead)
    restate(root, root / EVALUATE)
    again(root, "compare", "report")


def scale_weights(root, by):
    from safetensors.torch import load_file, save_file

    path = root / WEIGHTS / "best.safetensors"
    w = load_file(path)
    name = [n for n, v in w.items() if v.dim() == 2][-1]
    w[name] = w[name] * by
    save_file(w, path)


def weights(root):
    scale_weights(root, -1.0)


def other_weights(root):
    scale_weights(root, 1.0001)
    again(root, "evaluate@default-0", "interpret", "compare", "report")


def history(root):
    def better(t):
        t.loc[:4, "train_loss"] = [f"{float(v) * 0.5:.9g}" for v in t.train_loss[:5]]

    edit(root / TRAIN / "results.csv", better)
    rows = pd.read_csv(root / TRAIN / "results.csv").train_loss
    log = (root / TRAIN / "train.log").read_text().splitlines(True)
    epochs = iter(rows)
    log = [
        re.sub(r"(train loss )[\d.]+", lambda m: f"{m[1]}{next(epochs):.4f}", line)
        if line.startswith("epoch ")
        else line
        for line in log
    ]
    (root / TRAIN / "train.log").write_text("".join(log))
    seal(root / TRAIN)
    from cvlab.core.style import figure_png, use_lab_style
    from cvlab.explain.plots import plot_history

    use_lab_style(100)
    fig = plot_history(pd.read_csv(root / TRAIN / "results.csv"), "val_loss", 150)
    (root / EVALUATE / "results.png").write_bytes(figure_png(fig))
    seal(root / EVALUATE)
    again(root, "compare", "report")


def example_images(root):
    shutil.copy(root / "runs/evaluate/default/seed-1/worst.png", root / EVALUATE / "worst.png")
    seal(root / EVALUATE)


def slices(root):
    edit(root / EVALUATE / "slices.csv", lambda t: t.__setitem__("brightness", t.contrast))
    seal(root / EVALUATE)
    again(root, "compare", "report")


def evaluated_output(root):
    output(root / EVALUATE / "evaluate.ipynb")


def trained_output(root):
    output(root / TRAIN / "train.ipynb", "epoch  12   val accuracy 1.0000\n")


def heat_maps(root):
    from cvlab.explain.attribution import pointing_summary

    folder = root / "runs/interpret"
    edit(folder / "pointing.csv", lambda t: t.__setitem__("hit", "1"))
    points = pd.read_csv(folder / "pointing.csv", dtype={"id": str})
    edit_json(folder / "pointing.json", lambda p: p.update(pointing_summary(points)))
    shutil.copy(folder / "pointing.png", folder / "heatmaps.png")
    seal(folder)
    again(root, "report")


def benchmark(root):
    folder = root / "runs/bench"
    edit_json(folder / "rows.json", lambda b: b["rows"]["fastai"].update(value=9.0, high=9.5))
    again(root, "report")


def seconds(root):
    edit_json(root / TRAIN / "timing.json", lambda t: t.__setitem__("seconds", 1.6))


def machine(root):
    edit_json(root / TRAIN / "environment.json", lambda e: e.__setitem__("cpu", "Raspberry Pi"))


def drop_lines(path, has):
    path.write_text("".join(x for x in path.read_text().splitlines(True) if not has(x)))


def folds_unrecorded(root):
    drop_lines(root / "runs/ledger.csv", lambda line: ",crossval," in line)
    again(root, "report")


def earlier_questions(root):
    drop_lines(root / "runs/ledger.csv", lambda line: ",hot," in line)
    again(root, "report")
    git(root, "commit", "-qam", "Update the runs")


def git(root, *args):
    sh(root, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", *args)


def frozen(root):
    path = root / "dvc.yaml"
    path.write_text(path.read_text().replace("  baseline:\n", "  baseline:\n    frozen: true\n"))
    with open(root / "cvlab/evaluation/baselines.py", "a") as f:
        f.write("\n# better\n")


def command(root):
    path = root / "dvc.yaml"
    old = "-p out runs/baseline\n"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, old[:-1] + " && true\n", 1))


def copied_seed(root):
    for stage, names in (  # weights are not in git
        ("evaluate", ["predictions.csv"]),
        ("train", ["results.csv", "train.log"]),
        ("weights", ["best.safetensors", "best.json"]),
    ):
        for name in names:
            here = root / f"runs/{stage}/default"
            if not here.exists():
                continue
            shutil.copy(here / f"seed-0/{name}", here / f"seed-1/{name}")
    to = root / "runs/evaluate/default/seed-1"

    def shifted(t):
        for c in [c for c in t if c.startswith("logit_")]:
            t[c] = [f"{float(v) + 0.25:.9g}" for v in t[c]]

    edit(to / "predictions.csv", shifted)
    log = root / "runs/train/default/seed-1/train.log"
    log.write_text(log.read_text().replace("seed 0", "seed 1"))
    shutil.copy(root / EVALUATE / "results.png", to / "results.png")
    restate(root, to)
    seal(root / "runs/train/default/seed-1")
    again(root, "compare", "report")


def swapped_split(root):
    "A test image and a training image of one class change places; every hash follows."
    from cvlab.data.samples import read_split, split_hash

    files = [f for f in root.glob("runs/*/split.csv")]
    old = split_hash(read_split(files[0]))
    for f in files:
        t = pd.read_csv(f, dtype=str, keep_default_na=False)
        a, b = (t.index[(t.subset == s) & (t.label == "grass")][0] for s in ("train", "test"))
        t.loc[a, "subset"], t.loc[b, "subset"] = "test", "train"
        t.sort_values(["subset", "id"]).to_csv(f, index=False, lineterminator="\n")
        ids = t.id[a], t.id[b]
    new = split_hash(read_split(files[0]))
    for f in root.glob("runs/*/**/*"):
        if f.suffix in (".json", ".yaml", ".csv", ".ipynb") and "measured" not in f.parts:
            text = f.read_text()
            text = text.replace(old, new).replace(old[:16], new[:16])
            if f.name in (
                "predictions.csv",
                "majority.csv",
                "histogram.csv",
                "test_predictions.csv",
            ):
                text = text.replace(f"{ids[1]},test", f"{ids[0]},test")
            f.write_text(text)
    ledger = root / "runs/ledger.csv"
    ledger.write_text(ledger.read_text().replace(old[:16], new[:16]))
    for f in root.rglob("runs/*/**/environment.json"):
        seal(f.parent)


def effective(root):
    path = root / TRAIN / "params.yaml"
    text = path.read_text()
    forged, n = re.subn(r"(normalise:\s+)half\b", r"\1imagenet", text)  # wherever its line breaks
    assert n == 1
    path.write_text(forged)
    seal(root / TRAIN)


def shortcut(root):
    "Colour alone no longer predicts the class: predictions, scores, findings agree."
    from cvlab.evaluation.leakage import list_findings
    from cvlab.evidence.claims import guessed

    folder, rng = root / "runs/leakage", np.random.default_rng(0)

    def blind(t):
        t["colour"] = rng.permutation(t["colour"].to_numpy())

    edit(folder / "shortcut_predictions.csv", blind)
    score, low, high = (round(float(v), 4) for v in guessed(sorted(folder.glob("*.csv")), "colour"))
    t = pd.read_csv(folder / "probes.csv")
    row = t.probe == "colour"
    for k, v in dict(
        score=score,
        low=low,
        high=high,
        p=0.6,
        p_holm=0.6,
        tells=False,
        test=0.5,
        test_low=0.42,
        test_high=0.58,
    ).items():
        t.loc[row, k] = v
    t.to_csv(folder / "probes.csv", index=False, lineterminator="\n")

    def rewrite(r):
        r["probes"] = t.astype(object).where(t.notna(), None).to_dict("records")
        r["findings"] = list_findings(r)

    edit_json(folder / "leakage_report.json", rewrite)
    seal(folder)
    again(root, "report")


def baseline(root):
    from cvlab.core.io import write_json
    from cvlab.data.samples import read_split, split_hash
    from cvlab.evaluation.metrics import evaluate, read_predictions

    folder, rng = root / "runs/baseline", np.random.default_rng(0)

    def worse(t):
        logits = [c for c in t if c.startswith("logit_")]
        flip = (rng.random(len(t)) < 0.2).nonzero()[0]
        t.loc[flip, logits] = t.loc[flip, logits[::-1]].to_numpy()

    edit(folder / "histogram.csv", worse)
    split = split_hash(read_split(root / "runs/prepare/split.csv"))
    files = {p.stem: read_predictions(p) for p in sorted(folder.glob("*.csv"))}
    write_json(
        folder / "metrics.json", {n: evaluate(p) | {"split": split} for n, p in files.items()}
    )
    seal(folder)
    again(root, "compare", "report")


def rate_curves(root):
    from cvlab.evidence.claims import lr_found

    folder = root / "runs/lr_find"
    edit(
        folder / "curves.csv",
        lambda t: t.__setitem__("lr", [f"{float(v) * 2:.9g}" for v in t.lr]),
    )
    now = lr_found(folder / "curves.csv")
    edit_json(
        folder / "lr.json",
        lambda j: j.update(lr=now.lr, interval=now.interval, rates=now.rates, notes=now.notes),
    )
    seal(folder)
    again(root, "report")


def folds(root):
    "Out-of-fold predictions, with every table that follows from them."
    from cvlab.core.io import write_json
    from cvlab.core.style import figure_png, use_lab_style
    from cvlab.data.samples import split_hash
    from cvlab.evaluation.metrics import evaluate
    from cvlab.evidence.verify import Lab, _crossval_tables
    from cvlab.explain.plot_confusion import plot_confusions

    folder, lab = root / "runs/crossval", Lab(root)

    def right(t):
        logits = [c for c in t if c.startswith("logit_")]
        wrong = [
            i
            for i, r in t.iterrows()
            if max(logits, key=lambda c: float(r[c])) != f"logit_{r.label}"
        ]
        t.loc[wrong[:5], logits] = t.loc[wrong[:5], logits[::-1]].to_numpy()

    edit(folder / "oof.csv", right)
    oof = pd.read_csv(folder / "oof.csv", dtype={"id": str})
    test = pd.read_csv(folder / "test_predictions.csv", dtype={"id": str, "model": str})
    for name, t in _crossval_tables(lab, oof, test.fillna({"model": ""})).items():
        if name != "folds":
            t.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n", float_format="%.9g")
    base = oof[(oof.experiment == lab.params.crossval.experiments[0]) & (oof.repeat == 0)]
    first = evaluate(base.drop(columns=["repeat", "fold", "experiment"]), "val")
    write_json(folder / "metrics.json", dict(oof=first, split=split_hash(lab.split)))
    use_lab_style(100)
    fig = plot_confusions(first["confusion_matrix"], first["classes"])
    (folder / "confusion_matrix.png").write_bytes(figure_png(fig))
    seal(folder)
    again(root, "report")


def trial(root):
    "The score of a trial, in its record and in the table of trials."
    folder = root / "runs/tune"
    edit_json(folder / "trials/0001/trial.json", lambda t: t.update(score=0.01, scores=[0.01]))
    edit(
        folder / "trials.csv",
        lambda t: t.__setitem__("val_loss", t.val_loss.where(t.trial != "1", "0.01")),
    )
    seal(folder)
    again(root, "report")


def measured(root):
    for f in root.glob(
        "runs/measured/dandelion_grass/mobilenetv2_224/*/evaluate/*/predictions.csv"
    ):
        edit(f, lambda t: right_instead(t, 1) if len(t) > 60 else None)
    again(root, "report")


def extra_file(root):
    (root / EVALUATE / "best.png").write_bytes((root / EVALUATE / "worst.png").read_bytes())
    seal(root / EVALUATE)
    (root / "runs/records").mkdir()
    (root / "runs/records/best.json").write_text('{"accuracy": 1.0}\n')


def template(text):
    "A sentence or figure in the README, through its template."

    def plant(root):
        path = root / "nbs/pages/index.ipynb"
        nb = json.loads(path.read_text())
        cell = next(c for c in nb["cells"] if c["cell_type"] == "markdown")
        cell["source"] = "".join(cell["source"]) + f"\n\n{text}\n"
        path.write_text(json.dumps(nb, indent=1))
        if not DOWNSTREAM:
            with open(root / "README.md", "a") as f:
                f.write(f"\n{text}\n")
        again(root, "report")

    return plant


@dataclass(frozen=True)
class Forgery:
    plant: Callable  # function of the copy
    mode: str  # first mode that names it: plain | weights | retrain | witness
    stage: str  # what --retrain runs, or the item of verify's line
    words: str  # part of verify's line
    what: str  # what is changed, as the page says it
    earlier: str  # mode that named it before its check existed


_NUMBER = template("The default model is right on ninety-nine of a hundred test images.")
_CODE = template("The default model reaches `0.999`.")
_FIGURE = template("![accuracy][best]\n\n[best]: https://example.org/best.png")

# fmt: off
FORGERIES = {
    "predictions": Forgery(predictions, "weights", "evaluate@default-0", "predictions.csv", "wrong test images become right; metrics, figures and pages follow", "`--weights`"),
    "weights": Forgery(weights, "weights", "evaluate@default-0", "predictions.csv", "other weights beside the stored predictions", "`--weights`"),
    "figure of example images": Forgery(example_images, "weights", "evaluate@default-0", "worst.png", "the worst images of another seed", "nothing"),
    "image properties": Forgery(slices, "weights", "evaluate@default-0", "slices.csv", "the table that slices are made from", "nothing"),
    "output of an evaluation": Forgery(evaluated_output, "weights", "evaluate@default-0", "evaluate.ipynb", "what a cell of the executed notebook printed", "nothing"),
    "heat maps": Forgery(heat_maps, "weights", "interpret", "heatmaps.png", "the figure, the table and the summary", "`--retrain`, except the figure"),
    "weights trained elsewhere": Forgery(other_weights, "retrain", "train@default-0", "best.safetensors", "other weights, honestly evaluated", "nothing"),
    "training history": Forgery(history, "retrain", "train@default-0", "results.csv", "lower training losses in table, log and figure", "`--retrain`"),
    "output of a training": Forgery(trained_output, "retrain", "train@default-0", "train.ipynb", "what a cell of the executed notebook printed", "nothing"),
    "effective parameters": Forgery(effective, "retrain", "train@default-0", "params.yaml", "the value that `auto` became", "nothing"),
    "leakage report": Forgery(shortcut, "retrain", "leakage", "shortcut_predictions.csv", "a shortcut disappears from predictions, scores and findings", "`--retrain`"),
    "baseline": Forgery(baseline, "retrain", "baseline", "histogram.csv", "a worse baseline, with its metrics", "`--retrain`"),
    "learning-rate curves": Forgery(rate_curves, "retrain", "lr_find", "curves.csv", "curves at other rates, with the suggestion", "`--retrain`"),
    "cross-validation": Forgery(folds, "retrain", "crossval", "oof.csv", "wrong images of the folds become right; all tables follow", "`--retrain`"),
    "trial of a study": Forgery(trial, "plain", "tune", "its score is not that of its history", "a lower loss in the record of a trial and in the table", "did not exist"),
    "split": Forgery(swapped_split, "plain", "prepare", "split.csv", "a training and a test image change places; hashes and predictions follow", "`--data`, and forgotten tables"),
    "copied seed": Forgery(copied_seed, "plain", "evaluate@default-1", "predictions.csv", "one training stored as two seeds, a constant added to all logits", "nothing"),
    "use of the test set": Forgery(folds_unrecorded, "plain", "crossval", "runs/ledger.csv", "the ledger's entry of the cross-validation is removed", "nothing"),
    "frozen stage": Forgery(frozen, "plain", "baseline", "frozen", "`frozen: true` in dvc.yaml hides changed code", "nothing"),
    "command": Forgery(command, "plain", "baseline", "dvc.yaml", "a command written into dvc.yaml by hand", "nothing"),
    "extra file": Forgery(extra_file, "plain", "runs/records/best.json", "no rule", "results in files that no stage writes", "nothing"),
    "number in words": Forgery(_NUMBER, "plain", "README.md", "ninety-nine", "a result in a sentence without digits", "nothing"),
    "number in code": Forgery(_CODE, "plain", "README.md", "0.999", "a result in a code span", "nothing"),
    "figure from elsewhere": Forgery(_FIGURE, "plain", "README.md", "example.org", "a figure by URL and reference", "nothing"),
    "earlier evaluations": Forgery(earlier_questions, "witness", "runs/ledger.csv", "earlier", "entries of earlier experiments are removed from the ledger", "nothing"),
    "measured elsewhere": Forgery(measured, "witness", "runs/measured/dandelion_grass/mobilenetv2_224", "cannot be redistributed", "predictions on images that are not here", "a line, unverifiable"),
    "benchmark": Forgery(benchmark, "witness", "runs/bench", "rows.json", "a measured ratio", "nothing"),
    "seconds": Forgery(seconds, "witness", "runs/train", "timing.json", "the duration of a training", "nothing"),
    "machine": Forgery(machine, "witness", "runs/train", "environment.json", "the processor of a run", "nothing"),
}
# fmt: on

NAMED_BY = {
    "plain": "`cvlab verify`",
    "weights": "`--weights`",
    "retrain": "`--retrain`",
    "witness": "a line, unverifiable",
}


def rows():
    "The table of nbs/pages/site/verify.md."
    return [
        f"| {name} | {f.what} | {f.earlier} | {NAMED_BY[f.mode]} |" for name, f in FORGERIES.items()
    ]


def verdicts(root, name, retrain=True):
    "The lines of drift that each mode prints for one forgery."
    f, found = FORGERIES[name], {}
    for mode in ("--weights", f"--retrain={f.stage}")[: 2 if retrain else 1]:
        if mode.startswith("--retrain") and f.mode not in ("weights", "retrain"):
            continue
        done = sh(root, Path(sys.executable).parent / "cvlab", "verify", mode, check=False)
        found[mode] = [x for x in done.stdout.splitlines() if x.startswith("drift")]
        if not done.stdout:
            found[mode] = [done.stderr[-300:]]
    return found


def main(folder, *names):
    for name in names or FORGERIES:
        root = Path(folder) / "lab"
        shutil.rmtree(root, ignore_errors=True)
        root = copy_into(root)
        try:
            FORGERIES[name].plant(root)
            commit(root)
            print(name, json.dumps(verdicts(root, name), indent=1), flush=True)
        except Exception as e:
            print(name, "FAILED", type(e).__name__, str(e)[-1500:], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
