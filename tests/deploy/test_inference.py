"""What is to be written of an InferenceService, where it is not as we left it."""

from __future__ import annotations

import pytest

from controller.deploy.inference import promote
from controller.errors import Conflict

FOUND = {
    "kind": "InferenceService",
    "metadata": {"name": "digits", "namespace": "models"},
    "spec": {"predictor": {"canaryTrafficPercent": 20, "model": {"storageUri": "s3://v1"}}},
    "status": {},
}


def test_a_percent_of_somebody_else_is_not_taken_for_a_rollout_of_ours():
    with pytest.raises(Conflict, match="canaryTrafficPercent is 20"):
        promote(FOUND, "v1", "v1")
