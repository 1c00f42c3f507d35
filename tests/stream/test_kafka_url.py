"""What an address of a Kafka says, and what is said of one that is wrong."""

import pytest
from confluent_kafka import Producer

from controller.errors import Permanent
from controller.stream.kafka_url import parse


def test_hosts_prefix_and_options_are_told_apart() -> None:
    address = parse("kafka://one:9093,two,[::1]:9/team.rollouts?durability=always&replication=3")
    assert address.bootstrap == "one:9093,two:9092,[::1]:9"
    assert address.prefix == "team.rollouts"
    assert address.options == {"durability": "always", "replication": "3"}
    assert address.client["bootstrap.servers"] == "one:9093,two:9092,[::1]:9"
    assert address.client["security.protocol"] == "PLAINTEXT"
    assert not [name for name in address.client if name.startswith(("sasl", "ssl"))]


@pytest.mark.parametrize("url", ["kafka://h:1", "kafka://h:1/", "kafka://h:1?min_insync=1"])
def test_without_a_prefix_it_is_ours(url: str) -> None:
    assert (parse(url).bootstrap, parse(url).prefix) == ("h:1", "understudy")


@pytest.mark.parametrize(
    ("url", "protocol", "mechanism"),
    [
        ("kafka://ana:a%40b%2Fc@h:1", "SASL_PLAINTEXT", "SCRAM-SHA-512"),
        ("kafkas://ana:a%40b%2Fc@h:1?mechanism=PLAIN", "SASL_SSL", "PLAIN"),
        ("kafkas://h:1", "SSL", None),
    ],
)
def test_a_user_means_sasl_and_the_scheme_means_tls(
    url: str, protocol: str, mechanism: str | None
) -> None:
    client = parse(url).client
    assert client["security.protocol"] == protocol
    assert client.get("sasl.mechanism") == mechanism
    if mechanism:
        assert (client["sasl.username"], client["sasl.password"]) == ("ana", "a@b/c")
    Producer(client)  # the client knows every name


def test_tls_files_are_passed_on() -> None:
    client = parse("kafkas://h?ca=/etc/ca.pem&certificate=/etc/c.pem&key=/etc/k.pem").client
    assert client["ssl.ca.location"] == "/etc/ca.pem"
    assert client["ssl.certificate.location"] == "/etc/c.pem"
    assert client["ssl.key.location"] == "/etc/k.pem"


def test_no_password_is_shown() -> None:
    address = parse("kafkas://ana:hunter2@h:1/p")
    assert "hunter2" not in repr(address)
    assert address.name == "kafkas://h:1/p"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nats://ana:hunter2@h:1", "found an address with the scheme 'nats', expected kafka://"),
        ("ana:hunter2@h:1", "scheme 'ana'"),
        ("kafka://", "found the hosts ''"),
        ("kafka://ana:hunter2/x@h", "write /, . and @ of a password as %2F"),
        ("kafka://ana:hunter2?x=1@h", "write /, . and @ of a password as %2F"),
        ("kafka://ana:hunter2@/p", "found the hosts ''"),
        ("kafka://ana:hunter2@h:x/p", "found the hosts 'h:x'"),
        ("kafka://h:1,,i:2", "found the hosts 'h:1,,i:2'"),
        ("kafka://h:70000", "found the hosts"),
        ("kafka://ana:hunter2@h/a/b", "found the prefix 'a/b'"),
        ("kafka://h/ü", "found the prefix"),
        ("kafka://h/..", "found the prefix"),
        ("kafka://ana:hunter2@h?acks=0", "found the option 'acks' in the address, expected one of"),
        ("kafka://h?durability=a&durability=b", "'durability' twice"),
        ("kafka://h?durability=", "'durability' without a value"),
        ("kafka://ana:hunter2@h?mechanism=GSSAPI", "found mechanism=GSSAPI, expected one of SCRAM"),
        ("kafka://h?mechanism=PLAIN", "needs USER:PASSWORD@"),
        ("kafka://ana:hunter2@h?ca=/ca.pem", "'ca' is of TLS: expected kafkas://"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(url: str, why: str) -> None:
    with pytest.raises(Permanent, match=why) as caught:
        parse(url)
    assert "hunter2" not in str(caught.value)
