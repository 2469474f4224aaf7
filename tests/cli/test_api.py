"The Python interface against the command line: the same stages, the same bytes."

import json
import subprocess
import sys

import pytest
from conftest import BIN, TOP, environ

import cvlab
from cvlab.data.fixtures import tiny_folder

QUICK = ["evaluate.samples=8", "leakage.planted=8", "train.threads=1"]
SAME = (
    "prepare/split.csv",
    "train/seed-2/results.csv",
    "train/seed-2/params.yaml",
    "evaluate/seed-2/predictions.csv",
    "evaluate/seed-2/metrics.json",
    "baseline/metrics.json",
    "weights/seed-2/best.safetensors",
)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    "One training by Python, one by the command line, on the same images."
    root = tmp_path_factory.mktemp("api")
    images = tiny_folder(root / "it's data", n=48)
    run = cvlab.train(
        images, root / "python", epochs=2, batch_size=8, size=32, seed=2, overrides=QUICK
    )
    words = [
        "train",
        "--data",
        images,
        "--out",
        root / "command",
        "--seed",
        "2",
        "train.epochs=2",
        "train.batch_size=8",
        "data.size=32",
        *QUICK,
    ]
    done = subprocess.run(
        [BIN / "cvlab", *map(str, words)], cwd=TOP, env=environ(TOP), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return root, run, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("file", SAME)
def test_python_and_the_command_line_leave_the_same_bytes(both, file):
    root, *_ = both
    assert (root / "python" / file).read_bytes() == (root / "command" / file).read_bytes()


def test_python_and_the_command_line_leave_the_same_files(both):
    root, *_ = both

    def names(run):
        return sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file())

    assert names(root / "python") == names(root / "command")


def test_the_command_prints_the_report_of_the_run(both):
    _, run, answer = both

    def results(text):
        return [
            line
            for line in text.splitlines()
            if not line.startswith(("Open: ", "Card: ", "Recommended: "))
        ]

    assert results(run.report()) == results(answer)


def test_a_run_says_what_its_files_say(both):
    root, run, _ = both
    answer = json.loads((root / "python/evaluate/seed-2/metrics.json").read_text())
    assert run.metrics.loc["test", "accuracy"] == answer["test"]["accuracy"]
    assert run.metrics.loc["val", "n"] == answer["val"]["n"]
    assert len(run.history) == run.params["train"]["epochs"] == 2
    assert {*run.baselines.index} == {
        *json.loads((root / "python/baseline/metrics.json").read_text())
    }
    assert "test accuracy" in run._repr_html_() and run.plot().axes


def test_predict_answers_what_the_run_measured(both):
    "The class of a test image is the one with the largest logit in predictions.csv."
    from cvlab.data.samples import read_split
    from cvlab.evaluation.metrics import predicted

    root, run, _ = both
    rows, paths = (
        run.predictions,
        read_split(root / "python/prepare/split.csv").set_index("id").path,
    )
    for i, label in zip(rows.id[:5], predicted(rows)[:5]):
        assert run.predict(root / "it's data" / paths[i]).label == label
    answer, figure = run.predict(root / "it's data" / paths[rows.id[0]], explain=True)
    assert answer.label in ("disc", "square") and len(figure.axes) >= 2


def test_equal_runs_have_no_effect(both):
    root, run, _ = both
    row = cvlab.load(root / "command").compare(run).iloc[0]
    assert (row.effect, row.n) == (0, run.metrics.loc["test", "n"])


def test_runs_of_other_splits_are_not_compared(both):
    _, run, _ = both
    with pytest.raises(cvlab.LabError, match="has other images or labels") as e:
        run.compare(cvlab.load(TOP / "runs", "default", 0))
    assert "\n" not in str(e.value)


def test_outside_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        cvlab.LabError, match="no params.yaml here or above; run this inside the repository"
    ):
        cvlab.train(tiny_folder(tmp_path / "images"))


def test_python_dash_m():
    for words in (["--version"], ["params", "optim.lr=0.5"]):
        answer = [
            subprocess.run(
                map(str, [*program, *words]),
                cwd=TOP,
                env=environ(TOP),
                capture_output=True,
                text=True,
            )
            for program in ([sys.executable, "-m", "cvlab"], [BIN / "cvlab"])
        ]
        assert answer[0].returncode == answer[1].returncode == 0, answer[0].stderr
        assert answer[0].stdout == answer[1].stdout != ""
    assert (
        f"cvlab {cvlab.__version__}\n"
        == subprocess.run(
            [BIN / "cvlab", "--version"], cwd=TOP, env=environ(TOP), capture_output=True, text=True
        ).stdout
    )


def test_params_lists_what_is_allowed():
    done = subprocess.run(
        [BIN / "cvlab", "params"], cwd=TOP, env=environ(TOP), capture_output=True, text=True
    )
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert lines["optim.name"].endswith("[adamw, adam, sgd, radam, ranger, lamb]")
    assert lines["model.dropout"].endswith("[number, at least 0, less than 1]")
    assert all(line.endswith("]") for line in lines.values())


def test_the_recipe_leaves_no_library_behind(tmp_path):
    "The stages begin with a small process: the recipe, with torch and the images, was chosen in a copy of it."
    images = tiny_folder(tmp_path / "images", n=30)
    code = "\n".join(
        [
            "import sys",
            "import cvlab.cli.api as api",
            "api._train = lambda *a, **k: print('torch' in sys.modules)",
            f"api.train({str(images)!r}, out={str(tmp_path / 'run')!r}, overrides={QUICK})",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TOP, env=environ(TOP), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
    assert "epochs:" in (tmp_path / "run" / "recipe.yaml").read_text()
