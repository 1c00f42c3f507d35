"""The event log on a Kafka behind TLS, with every way in that docs/event-log.md names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from controller.core.model.checks import Status
from controller.errors import Permanent, Retryable
from controller.stream import Mark, kafka_checks, open_stream
from controller.stream.checks import check_stream
from controller.stream.kafka import reader
from tests.cluster.certificates import Authority
from tests.processes import until
from tests.stores.kafka import Kafka, refused

USERS = {"ana": "s%c/ret@1"}
"""With what an address must write otherwise."""
WRITTEN = "s%25c%2Fret%401"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def kafka(authority: Authority) -> Iterator[Kafka]:
    authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    everybody = "User:ANONYMOUS;User:ana;User:bob;User:CN=understudy"
    with Kafka(
        USERS, tls=authority, authorizer_class_name=authorizer, super_users=everybody
    ) as server:
        admin = AdminClient({"bootstrap.servers": server.bootstrap})
        scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        asked = admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion("bob", scram, b"hunter2")]
        )
        asked["bob"].result(10)
        yield server


def goes_round(url: str) -> None:
    with closing(open_stream(url)) as stream:
        first = stream.append({"m": [b"1", b"2"]}, mark=Mark("tail", "2"))["m"]
    with closing(open_stream(url)) as stream:
        assert [line for b in stream.read("m", first) for line in b.lines] == [b"1", b"2"]
        assert stream.mark("tail") == "2"


def test_a_user_enters_by_password_by_scram_or_by_certificate(
    kafka: Kafka, authority: Authority
) -> None:
    ca = f"ca={authority.certificate}&durability=unchecked"
    goes_round(f"kafkas://ana:{WRITTEN}@{kafka.guarded}/plain?mechanism=PLAIN&{ca}")
    goes_round(f"kafkas://bob:hunter2@{kafka.guarded}/scram?{ca}")
    own = authority.client("understudy")
    pair = f"certificate={own.certificate}&key={own.key}"
    goes_round(f"kafkas://{kafka.mutual}/mutual?{pair}&{ca}")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signs nothing that the broker has."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.mark.parametrize(
    ("user", "door", "options"),
    [
        ("bob:hunter3@", "guarded", "ca={ca}"),
        ("ana:hunter3@", "guarded", "mechanism=PLAIN&ca={ca}"),
        ("bob:hunter2@", "guarded", "mechanism=SCRAM-SHA-256&ca={ca}"),
        ("bob:hunter2@", "guarded", "ca={stranger}"),
        ("bob:hunter2@", "guarded", ""),
        ("", "mutual", "ca={ca}"),
    ],
    ids=["password", "plain", "mechanism", "authority", "machine", "certificate"],
)
def test_whoever_is_refused_is_told_what_to_see_to(  # noqa: PLR0917 - parts of an address
    kafka: Kafka,
    authority: Authority,
    stranger: Authority,
    user: str,
    door: str,
    options: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "_ANSWER_S", 1.5)
    given = options.format(ca=authority.certificate, stranger=stranger.certificate)
    url = f"kafkas://{user}{getattr(kafka, door)}/x?{given}".rstrip("?")
    said = str(refused(lambda: open_stream(url).close()))
    assert "see to the user, the password, the certificates and the ACLs" in said
    assert "hunter" not in said


def test_tls_where_there_is_none_is_told_as_such(
    kafka: Kafka, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_ANSWER_S", 1.5)

    def told() -> str:
        with pytest.raises(Retryable) as caught:
            open_stream(f"kafkas://{kafka.bootstrap}/x?ca={authority.certificate}").close()
        return str(caught.value)

    until("it is told", lambda: "connecting to a PLAINTEXT broker listener" in told(), 20)


def test_a_file_that_is_not_there_is_an_error_with_a_remedy(kafka: Kafka, tmp_path: Path) -> None:
    with pytest.raises(Permanent, match=r"ssl\.ca\.location .* can be read, and are in PEM"):
        open_stream(f"kafkas://bob:hunter2@{kafka.guarded}/x?ca={tmp_path}/none.pem").close()


def test_doctor_finds_what_is_wrong_with_a_password(
    kafka: Kafka, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_checks, "_ANSWER_S", 1.5)
    url = f"kafkas://bob:hunter3@{kafka.guarded}/x?ca={authority.certificate}"
    (refused,) = check_stream(url, time.time)
    assert refused.status is Status.FAILED
    assert "hunter" not in str(refused)
