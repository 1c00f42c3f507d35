"""The model server speaks the Open Inference Protocol v2."""

from __future__ import annotations

import copy

import httpx
import numpy as np
import pytest

from controller.demo.models import load, load_holdout

INFER = "/v2/models/digits/infer"


def question(n=1, **changes):
    tensor = {"name": "image", "shape": [n, 64], "datatype": "FP32", "data": [1.0] * 64 * n}
    return {"inputs": [{**tensor, **changes}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/digits/ready", {"name": "digits", "ready": True}),
        ("/v2/models/digits/versions/v2/ready", {"name": "digits", "ready": True}),
    ],
)
def test_health_is_told(v2: httpx.Client, path, body):
    answer = v2.get(path)
    assert (answer.status_code, answer.json()) == (200, body)


def test_metadata_names_the_tensors(v2: httpx.Client):
    assert v2.get("/v2").json()["name"] == "understudy-demo"
    metadata = v2.get("/v2/models/digits").json()
    assert metadata["name"] == "digits"
    assert metadata["versions"] == ["v2"]
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}]
    assert metadata == v2.get("/v2/models/digits/versions/v2").json()


def test_answers_are_the_models(v2: httpx.Client, models):
    images = load_holdout(models).images[:20]
    expected = load(models / "v2.pickle").predict_proba(images)
    answer = v2.post(INFER, json=question(20, data=images.ravel().tolist()) | {"id": "q-7"}).json()
    assert {k: answer[k] for k in ("id", "model_name", "model_version")} == {
        "id": "q-7",
        "model_name": "digits",
        "model_version": "v2",
    }
    label, probabilities = answer["outputs"]
    assert (label["name"], label["datatype"], label["shape"]) == ("label", "INT64", [20])
    assert label["data"] == expected.argmax(axis=1).tolist()
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [20, 10])
    np.testing.assert_allclose(np.reshape(probabilities["data"], (20, 10)), expected)


def test_nested_data_mean_the_same_as_flat_ones(v2: httpx.Client, models):
    images = load_holdout(models).images[:3]
    flat = v2.post(INFER, json=question(3, data=images.ravel().tolist()))
    nested = v2.post(INFER, json=question(3, data=images.tolist()))
    assert flat.status_code == 200
    assert flat.json() == nested.json()


def test_only_the_outputs_asked_for_are_given(v2: httpx.Client):
    body = question() | {"outputs": [{"name": "label"}]}
    assert [o["name"] for o in v2.post(INFER, json=body).json()["outputs"]] == ["label"]


def test_a_version_may_be_named(v2: httpx.Client):
    named = v2.post("/v2/models/digits/versions/v2/infer", json=question())
    assert named.json() == v2.post(INFER, json=question()).json()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"not json", "not an inference request"),
        (b"[" * 100_000, "not an inference request"),
        ({}, "inputs"),
        ({"inputs": []}, "found 0 inputs, expected 1"),
        (question(shape=[64]), "found shape [64]"),
        (question(shape=[1, 63]), "found shape [1, 63]"),
        (question(shape=[0, 64]), "found shape [0, 64]"),
        (question(shape=[2, 64]), "found 64 values, expected 128"),
        (question(shape=[10**30, 64]), "with 1 <= n <= 4096"),
        (question(datatype="INT64"), "expected 'FP32'"),
        (question(data=["1.0"] * 64), "not a number"),
        (question(data=[True] * 64), "not a number"),
        (question(data=[None] * 64), "not a number"),
        (question(data=[[1.0] * 63, [1.0]]), "ragged"),
        (question(data=[1e300] * 64), "does not fit FP32"),
        (question() | {"outputs": [{"name": "odds"}]}, "unknown output 'odds'"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_protocols_error(v2: httpx.Client, body, error):
    sent = {"content": body} if isinstance(body, bytes) else {"json": copy.deepcopy(body)}
    answer = v2.post(INFER, **sent)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert error in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/letters/infer", 404),
        ("POST", "/v2/models/digits/versions/v1/infer", 404),
        ("GET", INFER, 405),
        ("GET", "/", 404),
    ],
)
def test_other_paths_are_refused_with_the_protocols_error(v2: httpx.Client, method, path, status):
    answer = v2.request(method, path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


def test_answers_do_not_wait_for_delayed_acknowledgements(v2: httpx.Client):
    # With Nagle's algorithm on the server every answer takes 40 ms.
    elapsed = sorted(v2.post(INFER, json=question()).elapsed.total_seconds() for _ in range(30))
    assert elapsed[10] < 0.03
