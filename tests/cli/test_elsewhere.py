"The files that open the lab in a container of an editor, and on Binder: they do what `make install` does."

import json
import re
import subprocess

from conftest import TOP


def test_the_container_of_an_editor_installs_the_lab():
    made = json.loads((TOP / ".devcontainer" / "devcontainer.json").read_text())
    asked = subprocess.run(
        ["make", "-n", *made["postCreateCommand"].split()[1:]],
        cwd=TOP,
        capture_output=True,
        text=True,
    )
    assert made["postCreateCommand"].startswith("make ") and asked.returncode == 0, asked.stderr
    assert "/.venv/bin:" in made["remoteEnv"]["PATH"]
    python = made["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert python.endswith("/.venv/bin/python")


def test_binder_installs_the_lock_of_the_lab():
    build, makefile = (TOP.joinpath(f).read_text() for f in (".binder/postBuild", "Makefile"))
    locks = re.findall(r"-r (requirements/\S+\.txt)", build)
    assert locks == ["requirements/lab.txt"]
    assert "--require-hashes" in build and "--no-deps --no-build-isolation -e ." in makefile
    assert "--no-deps --no-build-isolation -e ." in build


def test_all_of_them_have_a_python_of_the_lock():
    low, high = re.search(
        r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (TOP / "pyproject.toml").read_text()
    ).groups()
    made = json.loads((TOP / ".devcontainer" / "devcontainer.json").read_text())
    for text in (made["image"], (TOP / ".binder" / "runtime.txt").read_text()):
        assert int(low) <= int(re.search(r"3\.(\d+)", text)[1]) < int(high), text
