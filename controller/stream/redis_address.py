"""The address of a Redis, of a Sentinel's Redis, or of a cluster: text to what it says.

    redis://[USER:PASSWORD@]HOST:PORT/DATABASE                          one Redis
    redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/NAME/DATABASE  the primary NAME, as these
                                                                        Sentinels say
    redis+cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT                 the cluster that has these

`rediss` in place of `redis` means TLS, to Sentinels as well. User and password are those of Redis;
`sentinel_username` and `sentinel_password` are options.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from controller.errors import Permanent

Kind: TypeAlias = Literal["one", "sentinel", "cluster"]

DURABILITIES: Final = ("always", "everysec", "unchecked")
ALL: Final = "all"
_OPTIONS: Final = {"prefix": "understudy", "durability": "always"}
_OF_SENTINELS: Final = ("sentinel_username", "sentinel_password")
_PORTS: Final = {"one": 6379, "sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a log is. Its text is fit to be shown: it has no password in it.

    hosts     of the Redis, the Sentinels, or some nodes of the cluster
    name      what the Sentinels call the primary
    replicas  how many must have an append before it counts; None: all that there are
    """

    kind: Kind
    text: str
    is_secure: bool
    hosts: tuple[tuple[str, int], ...]
    name: str
    database: int
    prefix: str
    durability: str
    replicas: int | None
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)
    sentinel_login: dict[str, str] = field(repr=False)


def address_of(url: str) -> Address:
    """What an address says.

    Raises:
        Permanent: it is none; the message does not show its password.
    """
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise Permanent(f"Redis: {exc}; expected redis://HOST:PORT/DATABASE") from exc
    scheme, _, suffix = parts.scheme.partition("+")
    kind: Kind = "sentinel" if suffix == "sentinel" else "cluster" if suffix else "one"
    login, _, where = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    name, database = _path(kind, parts.path)
    options = _options(kind, parts.query)
    return Address(
        kind=kind,
        text=f"{parts.scheme}://{where}{parts.path}",
        is_secure=scheme == "rediss",
        hosts=tuple(_host(text, _PORTS[kind]) for text in where.split(",")),
        name=name,
        database=database,
        prefix=options["prefix"],
        durability=options["durability"],
        replicas=None if options["replicas"] == ALL else int(options["replicas"]),
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_login={n.partition("_")[2]: options[n] for n in _OF_SENTINELS if n in options},
    )


def _path(kind: Kind, path: str) -> tuple[str, int]:
    """Name of the primary, and number of the database."""
    parts = path.strip("/").split("/") if path.strip("/") else []
    name = parts.pop(0) if kind == "sentinel" and parts else ""
    if kind == "sentinel" and not name:
        raise Permanent(
            "Redis: found no name of a primary in the address, expected "
            "redis+sentinel://HOST:PORT,HOST:PORT/NAME/DATABASE"
        )
    database = parts[0] if parts else "0"
    if len(parts) > 1 or not database.isdecimal():
        raise Permanent(f"Redis: found {path!r} in the address, expected the number of a database")
    if kind == "cluster" and database != "0":
        raise Permanent(f"Redis: found database {database}: a cluster of Redis has only 0")
    return name, int(database)


def _options(kind: Kind, query: str) -> dict[str, str]:
    given = dict(parse_qsl(query, keep_blank_values=True))
    known = [*_OPTIONS, "replicas", *(_OF_SENTINELS if kind == "sentinel" else ())]
    if unknown := sorted(set(given) - set(known)):
        raise Permanent(
            f"Redis: found the option {unknown[0]!r} in the address, expected one of "
            f"{', '.join(known)}"
        )
    # Where a replica may take over, an event is safe when whichever takes over has it.
    options = _OPTIONS | {"replicas": "0" if kind == "one" else ALL} | given
    if options["durability"] not in DURABILITIES:
        raise Permanent(
            f"Redis: found durability={options['durability']}, expected one of "
            f"{', '.join(DURABILITIES)}"
        )
    is_all = options["replicas"] == ALL and kind != "one"
    if not is_all and not options["replicas"].isdecimal():
        raise Permanent(
            f"Redis: found replicas={options['replicas']}, expected a number"
            + ("" if kind == "one" else f" or {ALL}")
        )
    if not options["prefix"] or set(options["prefix"]) & set("{}"):
        raise Permanent(f"Redis: found prefix={options['prefix']}, expected a name")
    return options


def _host(text: str, port: int) -> tuple[str, int]:
    host, colon, number = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, number = text, str(port)
    if not host or not number.isdecimal() or int(number) > 65535:
        raise Permanent(f"Redis: found {text!r} in the address, expected HOST:PORT")
    return host.strip("[]"), int(number)
