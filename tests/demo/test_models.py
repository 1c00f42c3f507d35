import numpy as np
import pytest

from controller.demo.models import MANY, Trained, load, load_holdout, save, train
from controller.errors import Permanent


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train()


def test_accuracies_are_clearly_ordered(trained):
    accuracy = trained.accuracy
    assert 0.60 <= accuracy["v3"] <= 0.70
    assert 0.80 <= accuracy["v1"] <= 0.88
    assert accuracy["v2"] >= 0.95


def test_the_same_seed_gives_the_same_models(trained):
    again = train()
    assert again.accuracy == trained.accuracy
    np.testing.assert_array_equal(again.holdout.images, trained.holdout.images)


def test_traffic_is_drawn_from_rows_that_no_version_has_seen(trained):
    seen = {row.tobytes() for row in trained.versions["v2"]._fit_X.astype(np.float32)}
    assert len(seen) == MANY
    assert not seen & {row.tobytes() for row in trained.holdout.images}


def test_a_third_of_v3s_labels_is_wrong(trained):
    # v2 and v3 learned from the same rows, v2 with the true labels.
    true, taught = (trained.versions[v]._y for v in ("v2", "v3"))
    assert (true != taught).sum() == MANY // 3


def test_saved_models_answer_like_the_trained_ones(trained, tmp_path):
    save(trained, tmp_path)
    holdout = load_holdout(tmp_path)
    np.testing.assert_array_equal(holdout.labels, trained.holdout.labels)
    for name, model in trained.versions.items():
        np.testing.assert_array_equal(
            load(tmp_path / f"{name}.pickle").predict_proba(holdout.images[:50]),
            model.predict_proba(holdout.images[:50]),
        )


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(Permanent, match=r"no model at .*v9\.pickle"):
        load(tmp_path / "v9.pickle")
