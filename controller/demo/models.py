"""The three versions of the demo's model, and the images that its users will ask about.

All are one-nearest-neighbour classifiers, told apart by what they learned from:

    v1   a few rows                      right about 84 times in a hundred
    v2   many rows                       right about 98 times in a hundred
    v3   as many, a third mislabelled    right about 66 times in a hundred

One neighbour is chosen because it repeats its teacher's mistakes: models that average (trees in
numbers, regressions, more neighbours) shrug off a third of wrong labels, and then v3 would be a
good version. It is also exact, so the accuracies are the same on every machine.

The traffic is drawn from rows that no version has seen. Nothing outside this module imports
scikit-learn, and this module imports it where it is used, so that everything else of the demo works
without it. `python -m controller.demo.models DIR` trains in a process of its own: the conductor
stays free to be interrupted, and does not keep scikit-learn in memory for the rest of the run.
"""

from __future__ import annotations

import argparse
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core.model import Float, Int
from controller.errors import Permanent, UnderstudyError

CLASSES = 10
PIXELS = 64

SEED = 4
FEW, MANY = 65, 900
HOLDOUT = "holdout.npz"

Images = NDArray[np.float32]


class Classifier(Protocol):
    """What is used of scikit-learn's classifiers."""

    def predict_proba(self, images: Images) -> Float:
        """Probabilities  (n, CLASSES), rows summing to 1."""
        ...


@dataclass(frozen=True, slots=True)
class Holdout:
    """Images that no version was trained on.

    images  (n, PIXELS) float32, 0 to 16
    labels  (n,) int64, 0 to 9, true
    """

    images: Images
    labels: Int


@dataclass(frozen=True, slots=True)
class Trained:
    """The versions by name, the hold-out images, and each version's accuracy on all of them."""

    versions: dict[str, Classifier]
    holdout: Holdout
    accuracy: dict[str, float]


def train(seed: int = SEED) -> Trained:
    """The three versions and the hold-out set. Takes well under a second after imports.

    Raises:
        Permanent: scikit-learn is not installed.
    """
    rng = np.random.default_rng(seed)  # noqa: TID251 - a generator of its own, from the seed given
    images, labels = _digits()
    order = rng.permutation(len(labels))
    images, labels = images[order], labels[order]
    holdout = Holdout(images[MANY:], labels[MANY:])
    rows = images[:MANY]
    taught = {
        "v1": (rows[:FEW], labels[:FEW]),
        "v2": (rows, labels[:MANY]),
        "v3": (rows, _mislabel(labels[:MANY], rng)),
    }
    versions = {name: _fit(x, y) for name, (x, y) in taught.items()}
    accuracy = {name: _accuracy(model, holdout) for name, model in versions.items()}
    return Trained(versions, holdout, accuracy)


def save(trained: Trained, folder: Path) -> None:
    """Write `<version>.pickle` for each version, and the hold-out set, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / HOLDOUT, images=trained.holdout.images, labels=trained.holdout.labels)
    for name, model in trained.versions.items():
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(model))


def load(path: Path) -> Classifier:
    """A version that `save` wrote. Never give it a file of another origin: pickles run code.

    Raises:
        Permanent: scikit-learn is not installed, or the file is not there.
    """
    try:
        model = pickle.loads(path.read_bytes())  # noqa: S301 - our own file, in our own folder
    except ModuleNotFoundError as exc:
        raise _missing() from exc
    except OSError as exc:
        raise Permanent(f"no model at {path}: {exc}") from exc
    return cast("Classifier", model)


def load_holdout(folder: Path) -> Holdout:
    """The hold-out set that `save` wrote into `folder`."""
    with np.load(folder / HOLDOUT) as stored:
        return Holdout(stored["images"], stored["labels"])


def skip_checks() -> None:
    """Tell scikit-learn that inputs are checked by the caller: a third less time per answer."""
    import sklearn  # type: ignore[import-untyped]  # noqa: PLC0415 - only where it is used

    sklearn.set_config(assume_finite=True, skip_parameter_validation=True)


def _digits() -> tuple[Images, Int]:
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise _missing() from exc
    images, labels = load_digits(return_X_y=True)
    return images.astype(np.float32), labels.astype(np.int64)


def _fit(images: Images, labels: Int) -> Classifier:
    from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-untyped]  # noqa: PLC0415

    # Brute force beats a tree here: 900 rows are one small matrix product.
    model = KNeighborsClassifier(n_neighbors=1, algorithm="brute")
    return cast("Classifier", model.fit(images, labels))


def _mislabel(labels: Int, rng: np.random.Generator) -> Int:  # noqa: TID251 - a type, not a source
    """A copy in which a third of the labels, drawn at random, is wrong."""
    wrong = rng.permutation(len(labels))[: len(labels) // 3]
    copy = labels.copy()
    copy[wrong] = (copy[wrong] + rng.integers(1, CLASSES, len(wrong))) % CLASSES
    return copy


def _accuracy(model: Classifier, holdout: Holdout) -> float:
    answers = model.predict_proba(holdout.images).argmax(axis=1)
    return float((answers == holdout.labels).mean())


def _missing() -> Permanent:
    return Permanent(
        "the demo trains real models and needs scikit-learn: pip install 'understudy[demo]'"
    )


def main() -> None:
    """Train, save into the folder given, print `{"accuracy": {...}}`."""
    parser = argparse.ArgumentParser(description="train the demo's three models")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    try:
        trained = train()
    except UnderstudyError as exc:
        raise SystemExit(str(exc)) from exc
    save(trained, folder)
    print(msgspec.json.encode({"accuracy": trained.accuracy}).decode(), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
