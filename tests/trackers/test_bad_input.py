"""What goes wrong with a store, tried for real: each trouble is one clear line, nothing is lost, nothing is told twice.

Every test keeps a finished run in a lab of its own and sends it with the real command. File systems that are full or
cannot be written are mounted for a test, which is skipped where that is not permitted."""

import json
import sqlite3
import subprocess
from contextlib import closing, contextmanager, suppress

import pytest
from conftest import TOP
from test_trackers import HERE, PACKAGES, cvlab, kept, start, tracked, train

from cvlab.bench.stages import make_lab
from cvlab.data.fixtures import tiny_folder
from cvlab.trackers.base import begin, lasting_id, unsent, write_and_read
from cvlab.trackers.courier import start_couriers, tracker_class, wait_for

STORE = "store"


def trackers(*names, by_day="mlflow"):
    "A test with these trackers, those of `by_day` also in the quick run."
    here = [n for n in names or PACKAGES if n in HERE]
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        "name", [n if n in by_day else pytest.param(n, marks=slow) for n in here]
    )


mlflow_only = pytest.mark.skipif("mlflow" not in HERE, reason="mlflow is not installed")


def addresses(store):
    plain = {n: str(store / n) for n in PACKAGES}
    return plain | {"mlflow": f"sqlite:///{store}/mlflow/m.db"}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    "A lab whose stores are below the folder `store`; couriers that a test starts work in it, too."
    folder = make_lab(tmp_path / "lab")
    where = "".join(f"{n} = {a}\n" for n, a in addresses(tmp_path / STORE).items())
    settings = (folder / "settings.ini").read_text()
    assert settings.count("[trackers]") == 1
    before, _, after = settings.partition("[trackers]")
    rest = after[after.index("\n[") :] if "\n[" in after else ""
    (folder / "settings.ini").write_text(f"{before}[trackers]\nuse =\n{where}{rest}")
    (tmp_path / STORE).mkdir()
    monkeypatch.setattr("cvlab.trackers.courier.repo_root", lambda: folder)
    monkeypatch.setenv("PYTHONPATH", str(TOP))
    return folder


def finished(lab, trackers, name="photos/seed-0", n=5):
    "The journal of a finished run that is waiting for trackers."
    file = lab.parent / "notes.txt"
    file.write_text("hello")
    journal = begin(
        lab / ".cvlab/track" / lasting_id(name, "0"), name, {"optim.lr": 0.1}, {}, trackers
    )
    for i in range(1, n + 1):
        journal.add("row", axis="epoch", step=i, values={"val_loss": 1 / i})
    journal.add("file", name="train/notes.txt", path=str(file))
    journal.add("end", status="finished")
    return journal


def stored(journal, name, lab):
    "What a store gives back: values by step, and the names of files."
    run = journal.of("start")[0]["run"]
    got = tracker_class(name).read(addresses(lab.parent / STORE)[name], run)
    return [*zip(got.rows.step, got.rows.value)], sorted(got.files)


def complete(n=5):
    return [(i, 1 / i) for i in range(1, n + 1)], ["train/notes.txt"]


@contextmanager
def mounted(folder, *options):
    "A file system in memory at a folder; skips the test where that is not permitted."
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def waits(lab, journal, name, says):
    "The command says the trouble in one line, and the run is kept."
    code, out, err = cvlab(lab, "track", "sync")
    assert code == 0 and "Traceback" not in out + err, out + err
    (line,) = out.splitlines()
    assert says in line and "the run is kept, `cvlab track sync` sends it" in line, line
    assert unsent(journal) == [name]


def arrives(lab, journal, name):
    code, out, err = cvlab(lab, "track", "sync")
    assert code == 0 and f"{name}: 5 rows and 1 files" in out, out + err
    assert stored(journal, name, lab) == complete()
    assert unsent(journal) == []


@trackers("mlflow", "dvclive", "wandb", by_day="dvclive")
def test_a_store_that_cannot_be_written(lab, name):
    journal, store = finished(lab, (name,)), lab.parent / STORE
    with mounted(store, "ro"):
        waits(lab, journal, name, "cannot be written")
    arrives(lab, journal, name)


@pytest.mark.slow
@mlflow_only
def test_a_database_that_became_read_only(lab):
    "It exists and has a run; only writing fails."
    store, first = lab.parent / STORE, finished(lab, ("mlflow",), "first/seed-0")
    with mounted(store, "size=64m"):
        assert "5 rows and 1 files" in cvlab(lab, "track", "sync")[1]
        second = finished(lab, ("mlflow",), "second/seed-0")
        subprocess.run(["mount", "-o", "remount,ro", str(store)], check=True)
        waits(lab, second, "mlflow", "cannot be written")
        subprocess.run(["mount", "-o", "remount,rw", str(store)], check=True)
        arrives(lab, second, "mlflow")
        assert stored(first, "mlflow", lab) == complete()


@trackers("mlflow", "dvclive", "tensorboard", by_day="dvclive")
def test_a_full_disk(lab, name):
    journal, store = finished(lab, (name,)), lab.parent / STORE
    with mounted(store, "size=4m"):
        filler = store / "filler"
        with suppress(OSError):  # which is how it becomes full
            filler.write_bytes(b"x" * (5 << 20))
        waits(lab, journal, name, "the disk is full")
        filler.unlink()
        out = cvlab(lab, "track", "sync")[1]
        assert f"{name}: 5 rows" in out, out
        assert stored(journal, name, lab)[0] == complete()[0]


@pytest.mark.slow
@mlflow_only
def test_a_database_of_an_older_mlflow(lab):
    "It says by itself which revision its tables have; a newer program refuses it, and nothing is changed."
    database, journal = lab.parent / STORE / "mlflow/m.db", finished(lab, ("mlflow",))
    address = addresses(lab.parent / STORE)["mlflow"]
    cvlab(lab, "track", "sync")
    with closing(sqlite3.connect(database)) as db:
        (now,) = db.execute("select version_num from alembic_version").fetchone()
        db.execute("update alembic_version set version_num = '451aebb31d03'")  # of MLflow 1
        db.commit()
    later = finished(lab, ("mlflow",), "later/seed-0")
    waits(lab, later, "mlflow", f"another version of MLflow; `mlflow db upgrade {address}`")
    with closing(sqlite3.connect(database)) as db:
        db.execute("update alembic_version set version_num = ?", [now])
        db.commit()
    arrives(lab, later, "mlflow")
    assert stored(journal, "mlflow", lab) == complete()


@trackers(by_day="dvclive")
def test_a_clock_that_was_set_back(lab, name):
    "An hour earlier after the second row, and a day later at the start: order and values are those of the steps."
    journal = finished(lab, (name,))
    events = [json.loads(line) for line in journal.path.read_text().splitlines()]
    for i, e in enumerate(events):
        e["time"] += 86400 if i == 0 else -3600 * (i > 2)
    journal.path.write_text("".join(json.dumps(e) + "\n" for e in events))
    wait_for(start_couriers(journal))
    assert sorted(stored(journal, name, lab)[0]) == complete()[0]
    assert unsent(journal) == []


@pytest.mark.slow
@mlflow_only
def test_two_processes_and_one_database(lab):
    "Two commands send the same two runs into a database that does not exist yet."
    runs = [finished(lab, ("mlflow",), f"{x}/seed-0") for x in "ab"]
    both = [start(lab, "track", "sync") for _ in range(2)]
    said = [p.communicate(timeout=300) for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert [stored(r, "mlflow", lab) for r in runs] == [complete(), complete()]
    from cvlab.trackers.mlflow import EXPERIMENT, mlflow_client

    client = mlflow_client(addresses(lab.parent / STORE)["mlflow"])
    experiments = [e for e in client.search_experiments() if e.name == EXPERIMENT]
    assert len(experiments) == 1
    assert len(client.search_runs([experiments[0].experiment_id])) == 2


@pytest.mark.slow
@mlflow_only
def test_an_experiment_deleted_while_a_run_is_sent(lab):
    from cvlab.trackers.courier import Transfer, explained
    from cvlab.trackers.mlflow import EXPERIMENT, mlflow_client

    address, journal = addresses(lab.parent / STORE)["mlflow"], finished(lab, ("mlflow",))
    lines = journal.path.read_bytes().splitlines(True)
    journal.path.write_bytes(b"".join(lines[:3]))
    transfer = Transfer(journal, tracker_class("mlflow"), address)
    transfer.send()
    client = mlflow_client(address)
    client.delete_experiment(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    journal.path.write_bytes(b"".join(lines))
    try:
        transfer.send()
    except Exception as e:
        transfer.fail(e)
        assert "deleted" in explained(e, address), explained(e, address)
    arrives(lab, journal, "mlflow")
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert len(runs) == 1


@trackers(by_day=("mlflow", "dvclive"))
def test_names_of_every_kind(tmp_path, name):
    "In the name of the run, of metrics, parameters, tags and files, and in the path of the store."
    store = tmp_path / "my 'store' 😀"
    file = tmp_path / "bild 😀.txt"
    file.write_text("hello")
    values = {"a/b c": 0.5, "λ 😀": 0.25, 'it\'s "so"': 0.125, "100 %": 2.0}
    title = "my 'photos' 😀/seed-0"
    got = write_and_read(
        tracker_class(name),
        addresses(store)[name],
        [dict(axis="epoch", step=1, values=values)],
        {"data.path": "fotos 😀/a b", "x y/z": "é"},
        {"train/bild 😀 1.txt": file},
        {"experiment": title},
        run=lasting_id(title, "1f3c9a2b"),
    )
    assert dict(zip(got.rows.name, got.rows.value)) == values
    assert got.params == {"data.path": "fotos 😀/a b", "x y/z": "é"}
    assert got.tags == {"experiment": title}
    assert name == "tensorboard" or list(got.files) == ["train/bild 😀 1.txt"]


@pytest.mark.slow
@mlflow_only
def test_a_disk_too_full_for_the_journal(lab):
    "The training ends as always, a line says that nothing was told, and the run can be told later."
    tiny_folder(lab.parent / "photos", n=60)
    with mounted(lab / ".cvlab" / "track", "size=64k"):
        filler = lab / ".cvlab/track/filler"
        with suppress(OSError):
            filler.write_bytes(b"x" * (65 << 10))
        code, out, err = cvlab(lab, *train(lab, "run", "train.epochs=2", *tracked("mlflow")))
        assert code == 0 and "Traceback" not in err, err
        assert "mlflow: the journal cannot be written, No space left on device; `cvlab track" in err
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", filler.parent], check=True)
        code, out, err = cvlab(lab, "track", lab.parent / "run", "--to", "mlflow", "--check")
        assert code == 0 and kept(out), out + err
