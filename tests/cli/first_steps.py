"""A stranger's first steps: how many words, commands and minutes it takes from the README to an image of one's own.

    python tests/cli/first_steps.py [--install] [--out steps.json]

clones this repository into a temporary folder, reads the commands out of the clone's README and types them there, in
a home folder with 100 drawn images as `~/photos`. `--install` really installs (3 GB to download); without it the
present environment runs the clone's sources. A command of the README that fails ends this with its output and exit
status 1."""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
OWN = "~/photos"


def blocks(readme: str):  # yields (offset, lines) of what is fenced and no programming language
    for m in re.finditer(r"^```(\w*)\n(.*?)^```$", readme, re.M | re.S):
        if m[1] in ("", "sh", "bash", "console"):
            yield (
                m.start(),
                [
                    subset.split("  #")[0].strip().removeprefix("$ ")
                    for subset in m[2].splitlines()
                    if subset.strip()
                ],
            )


def words(text: str) -> int:
    "Words that are read: neither comments, addresses nor marks."
    text = re.sub(r"<!--.*?-->|!\[[^]]*\]\([^)]*\)|(?<=\])\([^)]*\)", "", text, flags=re.S)
    return len(re.findall(r"[^\W_][\w'’.,-]*", text))


def command_of(readme: str, verb: str) -> str:  # "" where the page does not say it
    "The first command of the page that begins so, in a block or between backticks."
    found = re.search(rf"^{verb}\S*.*$|`({verb}[^`\n]*)`", readme, re.M)
    return (found[1] or found[0].split("  #")[0]).strip() if found else ""


def way(readme: str) -> list[tuple[str, str]]:  # (command, "" or why it is not the page's)
    "What has to be typed, in order and once: the page's words where it has them."
    clone, install, source = (
        command_of(readme, verb) for verb in ("git clone", "make install", "source ")
    )
    steps = [
        (clone or "git clone", "" if clone else "not on the page"),
        (install or "make install", "" if install else "not on the page: it is in `make help`"),
        (source, ""),
    ]
    lines = next((lines for _, lines in blocks(readme) if any(OWN in item for item in lines)), [])
    last = next((i for i, label in enumerate(lines) if label.startswith("cvlab train")), None)
    if last is None:
        sys.exit(f"README.md: no block of commands trains on {OWN}")
    return list(
        dict([s for s in steps if s[0]] + [(line, "") for line in lines[: last + 1]]).items()
    )


def words_before(readme: str) -> dict[str, int | None]:  # None: there is none
    "How much stands above the first command and above the first image."
    places = dict(
        command=next((at for at, _ in blocks(readme)), None),
        image=next((m.start() for m in re.finditer(r"^!\[", readme, re.M)), None),
    )
    return {f"words_to_{k}": None if at is None else words(readme[:at]) for k, at in places.items()}


def typed(command: str, cwd: Path, env: dict) -> dict:  # wall, processor: seconds; load
    "One command, with its time."
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode:
        sys.exit(f"$ {command}\n{done.stdout[-3000:]}\nexited with {done.returncode}")
    return dict(
        start=start, wall=round(time.time() - start, 1), processor=round(cpu, 1), load=load()
    )


def load() -> float:
    return round(os.getloadavg()[0], 1)


def minutes(rows: list[dict]) -> float:
    return round(sum(r["wall"] for r in rows) / 60, 2)


def surroundings(home: Path, clone: Path, install: bool) -> dict:
    "A stranger's shell: a home of one's own; pip is told where packages come from as it is here."
    known = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("MAKE", "MFLAGS", "VIRTUAL_ENV", "PYTHONPATH"))
    }
    env = known | dict(HOME=str(home), MPLBACKEND="Agg")
    for name in (".config/pip", ".pip"):
        if (Path.home() / name).exists():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).symlink_to(Path.home() / name)
    bin = Path(sys.executable).parent
    paths = [p for p in env["PATH"].split(os.pathsep) if Path(p) != bin]
    if install:
        env["PATH"] = os.pathsep.join(paths)
    else:
        env |= dict(PATH=os.pathsep.join([str(bin), *paths]), PYTHONPATH=str(clone))
    return env


def main():
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--install", action="store_true", help="really `make install` (3 GB)")
    ask.add_argument("--out", type=Path, help="JSON of what was measured")
    asked = ask.parse_args()
    sys.path.insert(0, str(TOP))
    from cvlab.core.io import write_json
    from cvlab.core.timing import machine
    from cvlab.datasets.meadow import make_meadow

    with tempfile.TemporaryDirectory(prefix="first-steps-") as tmp:
        home, clone = Path(tmp, "home"), Path(tmp, "cvlab")
        make_meadow(home / "photos", 100)
        env, prefix, rows = surroundings(home, clone, asked.install), "", []
        # from here: the page need not say where it lies
        first = typed(f"git clone -q {TOP} {clone}", Path(tmp), env)
        readme = (clone / "README.md").read_text(encoding="utf-8")
        for command, why in way(readme):
            note = why
            if command.startswith("git clone"):
                row = first
            elif command.startswith("source "):
                if asked.install:
                    prefix = f"{command} && "
                row = typed(prefix + "true", clone, env)
            elif command.startswith("make install") and not asked.install:
                row = dict(start=time.time(), wall=0.0, processor=0.0, load=load())
                note = "the present environment instead"
            else:
                row = typed(prefix + command, clone, env)
            rows.append(dict(command=command, note=note, **row))
            print(
                f"{row['wall']:8.1f} s  {row['processor']:8.1f} s processor  load {row['load']:4.1f}  {command}"
                + (f"  ({note})" if note else ""),
                flush=True,
            )
        one = next((home / "photos").rglob("*.png"))
        predict = f"{prefix}cvlab predict --run ~/photos-run {one}"
        answers = sorted(typed(predict, clone, env)["wall"] for _ in range(3))
        drawn = (p for p in home.rglob("*.png") if home / "photos" not in p.parents)
        images = sorted(drawn, key=lambda p: p.stat().st_mtime)
        if not images:
            sys.exit("README.md: after its commands there is no image of the training")
        waited = sum(r["wall"] for r in rows[:-1]) + images[0].stat().st_mtime - rows[-1]["start"]
        result = dict(
            words_before(readme),
            commands=len(rows),
            commands_not_on_the_page=sum("not on the page" in r["note"] for r in rows),
            minutes=minutes(rows),
            minutes_to_own_image=round(waited / 60, 2),
            minutes_of_installing=minutes(
                [r for r in rows if r["command"].startswith("make install")]
            ),
            seconds_of_one_prediction=answers[1],
            processor_minutes=round(sum(r["processor"] for r in rows) / 60, 2),
            installed=asked.install,
            first_image=str(images[0].relative_to(home)),
            images=len(images),
            machine=machine(),
            steps=[
                {k: r[k] for k in ("command", "note", "wall", "processor", "load")} for r in rows
            ],
        )
        for k, v in result.items():
            if k != "steps":
                print(f"{k.replace('_', ' '):34} {v}")
        if asked.out:
            write_json(asked.out, result)


if __name__ == "__main__":
    main()
