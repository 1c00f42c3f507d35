"""The Dockerfile, as far as it can be judged where no image can be built."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text()
    joined = re.sub(r"\\\n", " ", "\n".join(x for x in text.splitlines() if x[:1] != "#"))
    return [
        (word, rest) for word, _, rest in (x.partition(" ") for x in joined.splitlines()) if word
    ]


def final_stage() -> list[tuple[str, str]]:
    found = instructions()
    last = max(i for i, (word, _) in enumerate(found) if word == "FROM")
    return found[last:]


def pins(file: str) -> dict[str, str]:
    """Names and versions of a lock, each of which has a hash."""
    blocks = re.split(r"\n(?=[a-z0-9])", (ROOT / file).read_text())
    found = {}
    for block in blocks:
        if named := re.match(r"([a-z0-9-]+)==(\S+)", block):
            assert "--hash=sha256:" in block, named[0]
            found[named[1]] = named[2]
    return found


def test_stages_begin_with_one_image_of_a_whole_version() -> None:
    found = instructions()
    (default,) = [rest for word, rest in found if word == "ARG"]
    assert re.fullmatch(r"PYTHON=\S+:\d+\.\d+\.\d+-slim-\w+", default)
    assert [rest.split()[0] for word, rest in found if word == "FROM"] == ["${PYTHON}"] * 2


def test_it_runs_as_the_user_of_the_chart_and_nobody_else() -> None:
    final = dict(final_stage())
    assert final["USER"] == "65532:65532"
    helpers = (ROOT / "charts/understudy/templates/_helpers.tpl").read_text()
    assert "runAsUser: 65532" in helpers
    assert final["ENTRYPOINT"] == '["understudy"]'
    words = [word for word, _ in final_stage()]
    assert "HEALTHCHECK" not in words
    assert words.index("USER") > max(i for i, word in enumerate(words) if word == "RUN")


def test_everything_is_installed_by_its_hash_or_from_the_wheel() -> None:
    installs = [rest for word, rest in instructions() if word == "RUN" and " install " in rest]
    assert len(installs) == 4
    for each in installs[:-1]:
        assert "--require-hashes" in each or "--no-index" in each
    assert "pip install" not in " ".join(rest for _, rest in final_stage())


def test_the_final_stage_has_no_installer() -> None:
    runs = " ".join(rest for word, rest in final_stage() if word == "RUN")
    assert "uninstall" in runs
    assert "ensurepip" in runs


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    rules = [
        x for x in (ROOT / ".dockerignore").read_text().splitlines() if x and not x.startswith("#")
    ]
    assert rules[0] == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    copied = [
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert {"controller", "docker/serve.lock", "docker/build.lock"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, rule) for rule in kept), source


def test_the_locks_of_the_image_agree_with_the_others() -> None:
    serve, build, everything = (
        pins(file) for file in ("docker/serve.lock", "docker/build.lock", "requirements.lock")
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = (re.split(r"[<>=\[;]", each)[0] for each in project["project"]["dependencies"])
    assert {re.sub(r"[-_.]+", "-", name) for name in named} <= set(serve)
    assert "hatchling" in build
    assert not set(serve) & {"pytest", "ruff", "mypy", "scikit-learn", "hypothesis"}
    differing = {n for n in set(serve) & set(everything) if serve[n] != everything[n]}
    assert not differing, "run `make lock`"
