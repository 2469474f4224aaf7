"The pages on storage and roll-out name commands, targets, packages and files that exist."

import re
import shlex

import pytest
from conftest import TOP, cvlab
from test_journeys import commands

PAGES = {n: TOP / f"nbs/pages/site/{n}.md" for n in ("storage", "rollout")}
GROUPS = "store", "models", "rollout", "hub", "registry"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists(page):
    "A command of `cvlab` that takes the options that are named."
    found = [shlex.split(c, comments=True) for c in commands(PAGES[page].read_text())]
    asked = {" ".join(c[1:3]) for c in found if c[0] == "cvlab"}
    wanted = {
        "storage": {f"store {w}" for w in ("start", "stop", "status", "remote")}
        | {f"models {w}" for w in ("register", "promote", "list", "show", "get")}
        | {"hub push"},
        "rollout": {"rollout run", "rollout show", "models promote"},
    }
    assert wanted[page] <= asked
    makefile = (TOP / "Makefile").read_text()
    for program, name, *rest in found:
        if program == "make":
            assert re.search(rf"^{name}:", makefile, re.M), name
            continue
        words = [name, rest[0]] if name in GROUPS and rest else [name]
        code, said, _ = cvlab(*words, "--help")
        assert code == 0, words
        assert all(w in said for w in rest if w.startswith("--")), (words, rest)


@pytest.mark.parametrize("page", PAGES)
def test_options_and_locks_exist(page):
    text = PAGES[page].read_text()
    _, said, _ = cvlab("rollout", "run", "--help")
    for option in set(re.findall(r"`(--(?:least|margin|slow-ms|share|alpha))`", text)):
        assert option in said
    for lock in re.findall(r"requirements/([\w-]+)\.txt", text):
        assert (TOP / f"requirements/{lock}.txt").exists()


def test_settings_name_a_store():
    "The section that the page and the command ask for; without an address the store of this machine."
    from cvlab.core.repro import settings_section

    assert settings_section("store", TOP) == {"address": "", "endpoint": ""}
    ignored = (TOP / ".gitignore").read_text().split()
    assert ".cvlab/" in ignored  # keys and objects of the store
