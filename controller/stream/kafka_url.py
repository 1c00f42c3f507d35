"""Where a Kafka is: `kafka://[USER:PASSWORD@]HOST[:PORT][,HOST…][/PREFIX][?OPTION=…]`.

`kafkas://` is the same over TLS. `PREFIX` begins the names of our own topics and of our
transactions; whoever only reads topics of others has no use for it. Options of the connection:

    mechanism     of SASL, when there is a user: SCRAM-SHA-512 (default), SCRAM-SHA-256, PLAIN
    ca            file with the certificates that sign the brokers', default: the machine's
    certificate   file with our own certificate, where brokers ask for one (mutual TLS)
    key           file with its private key

Options of the event log, which `controller.stream.kafka` explains: `durability`, `replication`,
`min_insync`. An unknown option is an error: what is misspelt is not ignored.

Invariant: no password in `repr`, in `KafkaAddress.name` or in an error.

Rejected: options passed through to the client by its own names, of which some (a group, a commit
interval, `acks`) would break the promises of the log without a word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from controller.errors import Permanent

SCHEMES: Final = ("kafka", "kafkas")
DEFAULT_PREFIX: Final = "understudy"

_SILENCE_MS: Final = 3_000
_ANY_CLIENT: Final[dict[str, str | int | bool]] = {
    # One that has lost its broker looks for it twice a second, not ever more rarely. A broker that
    # says nothing for a while is left for another, not after a minute.
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 500,
    "socket.timeout.ms": _SILENCE_MS,
    "socket.connection.setup.timeout.ms": _SILENCE_MS,
    "log_level": 0,  # what goes wrong is said by us
}
_DEFAULT_PORT: Final = 9092
_MECHANISMS: Final = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
_TLS_FILES: Final = {
    "ca": "ssl.ca.location",
    "certificate": "ssl.certificate.location",
    "key": "ssl.key.location",
}
_OF_LOG: Final = ("durability", "replication", "min_insync")
_OPTIONS: Final = ("mechanism", *_TLS_FILES, *_OF_LOG)
_HOST: Final = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_PREFIX: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")
_EXAMPLE: Final = "kafka://host:9092,other:9092/prefix"


@dataclass(frozen=True, slots=True)
class KafkaAddress:
    """What an address says.

    bootstrap  `HOST:PORT,HOST:PORT`: the brokers that are asked first
    client     the configuration of librdkafka, with the password; never shown
    options    those of the event log, as given
    """

    bootstrap: str
    prefix: str
    client: dict[str, str | int | bool] = field(repr=False)
    options: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The address for people: without user, password and options."""
        scheme = "kafkas" if "SSL" in str(self.client.get("security.protocol")) else "kafka"
        return f"{scheme}://{self.bootstrap}/{self.prefix}"


def parse(url: str) -> KafkaAddress:
    """What `url` says.

    Raises:
        Permanent: it is not an address of a Kafka, or has an option that is not known.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise Permanent(
            f"Kafka: found an address with the scheme {scheme.partition(':')[0]!r}, expected "
            f"{_EXAMPLE} (kafkas:// for TLS)"
        )
    rest, _, query = rest.partition("?")
    place, _, prefix = rest.partition("/")
    if "@" in prefix + query:  # what stands before it may be a password's end: not shown
        raise Permanent(
            "Kafka: found an @ after the hosts of the address: write /, ? and @ of a password as "
            "%2F, %3F and %40"
        )
    user, _, hosts = place.rpartition("@")
    options = _options(query)
    bootstrap = _bootstrap(hosts)
    is_tls = scheme == "kafkas"
    client: dict[str, str | int | bool] = {
        **_ANY_CLIENT,
        "bootstrap.servers": bootstrap,
        **_security(user, options, is_tls=is_tls),
    }
    return KafkaAddress(
        bootstrap,
        _prefix(prefix),
        client,
        {name: value for name, value in options.items() if name in _OF_LOG},
    )


def _options(query: str) -> dict[str, str]:
    given = parse_qsl(query, keep_blank_values=True)
    names = [name for name, _ in given]
    if unknown := sorted(set(names) - set(_OPTIONS)):
        raise Permanent(
            f"Kafka: found the option {unknown[0]!r} in the address, expected one of "
            f"{', '.join(_OPTIONS)}"
        )
    if twice := sorted(name for name in set(names) if names.count(name) > 1):
        raise Permanent(f"Kafka: found the option {twice[0]!r} twice in the address")
    if empty := sorted(name for name, value in given if not value):
        raise Permanent(f"Kafka: found the option {empty[0]!r} without a value in the address")
    return dict(given)


def _bootstrap(hosts: str) -> str:
    found = [_HOST.fullmatch(host) for host in hosts.split(",")]
    if not all(match and int(match["port"] or _DEFAULT_PORT) < 1 << 16 for match in found):
        raise Permanent(f"Kafka: found the hosts {hosts!r} in the address, expected {_EXAMPLE}")
    return ",".join(f"{m['host']}:{m['port'] or _DEFAULT_PORT}" for m in found if m)


def _prefix(found: str) -> str:
    prefix = found.removesuffix("/") or DEFAULT_PREFIX
    if not _PREFIX.fullmatch(prefix) or prefix in {".", ".."}:
        raise Permanent(
            f"Kafka: found the prefix {found!r} in the address, expected up to 100 letters, "
            "digits, dots, underscores and hyphens, with which names of topics begin"
        )
    return prefix


def _security(user: str, options: dict[str, str], *, is_tls: bool) -> dict[str, str | int | bool]:
    """The part of the client's configuration that says who we are, and to whom we say it."""
    found: dict[str, str | int | bool] = {}
    for name, setting in _TLS_FILES.items():
        if name in options:
            if not is_tls:
                raise Permanent(f"Kafka: the option {name!r} is of TLS: expected kafkas://")
            found[setting] = options[name]
    if user:
        name, _, password = user.partition(":")
        mechanism = options.get("mechanism", _MECHANISMS[0])
        if mechanism not in _MECHANISMS:
            raise Permanent(
                f"Kafka: found mechanism={mechanism}, expected one of {', '.join(_MECHANISMS)}"
            )
        found |= {
            "sasl.mechanism": mechanism,
            "sasl.username": unquote(name),
            "sasl.password": unquote(password),
        }
    elif "mechanism" in options:
        raise Permanent("Kafka: the option 'mechanism' needs USER:PASSWORD@ before the hosts")
    found["security.protocol"] = ("SASL_" if user else "") + ("SSL" if is_tls else "PLAINTEXT")
    return found
