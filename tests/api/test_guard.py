"""Peer failure 13: a dashboard by which a foreign web page can act."""

from __future__ import annotations

import httpx
import pytest

from tests.api.conftest import Served, serving

PAUSE = "/v1/models/digits/pause"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://[::1"},
        {"origin": "http://127.0.0.1:3000"},  # another port of this machine
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", [PAUSE, "/v1/models/digits/candidates", "/v1/events"])
def test_peer_13_a_foreign_page_cannot_act(
    served: Served, path: str, headers: dict[str, str]
) -> None:
    answer = served.client.post(path, json={"version": "v9"}, headers=headers)
    assert answer.status_code == 403
    assert answer.json()["type"] == "urn:understudy:problem:cross-site"
    assert served.fake.commands == []
    assert served.fake.offered == []
    assert served.fake.log == []


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_peer_13_a_form_cannot_act(served: Served, media_type: str) -> None:
    headers = {"content-type": media_type}
    answer = served.client.post(PAUSE, content=b'{"reason":"x"}', headers=headers)
    assert answer.status_code == 415
    assert served.fake.commands == []


def test_a_script_and_a_page_of_our_own_may_act(served: Served) -> None:
    own = {"origin": served.url, "sec-fetch-site": "same-origin"}
    assert served.client.post(PAUSE, json={}, headers=own).status_code == 200
    assert served.client.post(PAUSE, json={}).status_code == 200


def test_reading_is_not_shared_with_foreign_pages_either(client: httpx.Client) -> None:
    answer = client.get("/v1/models", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    preflight = client.options(PAUSE, headers={"origin": "https://evil.example"})
    assert preflight.status_code == 405


def test_a_rebound_name_is_turned_away_where_hosts_are_given() -> None:
    with serving("digits", hosts=frozenset({"127.0.0.1"})) as own:
        assert own.client.get("/v1/models").status_code == 200
        rebound = own.client.get("/v1/models", headers={"host": "evil.example:8800"})
        assert rebound.status_code == 421


def test_a_host_that_is_none_is_turned_away_where_hosts_are_given() -> None:
    with serving("digits", hosts=frozenset({"127.0.0.1"})) as own:
        answer = own.client.get("/v1/models", headers={"host": "[::1"})
        assert answer.status_code == 421


def test_the_dashboard_may_load_nothing_from_elsewhere(client: httpx.Client) -> None:
    assert client.get("/").headers["content-security-policy"].startswith("default-src 'self';")
