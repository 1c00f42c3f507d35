"""Where `serve` finds its things: options, else `UNDERSTUDY_…` variables, else defaults."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from controller.core.policy.quantities import duration_s
from controller.errors import PolicyError, Problem, UnderstudyError

RETAIN: Final = "1d"
KEEP_REJECTED: Final = 100_000
KEEP_DECISIONS: Final = "forever"
FORGET_ROUTERS: Final = "5m"
"""For so long a lost router may have users; the chart gives the same."""
LARGEST_POLICY: Final = 1 << 20
"""Bytes. YAML takes 3 s of CPU a MiB, and a cluster takes no larger object."""


class SettingsError(UnderstudyError):
    """A setting that cannot be used."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port; port 0 means: any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, name: str) -> Address:
        """An address written `HOST:PORT`; `name` is the setting's, for the error."""
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isdecimal() or int(port) > 65535:
            raise SettingsError(
                f"{name}: found {text!r}, expected HOST:PORT, such as 127.0.0.1:8800"
            )
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        """As it is written."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class StoreUrls:
    """Where the event log and the ledger are; they may hold passwords."""

    stream: str
    ledger: str

    @classmethod
    def of(cls, state: Path, *, stream: str | None = None, ledger: str | None = None) -> StoreUrls:
        """As they are given, else files in the state folder."""
        folder = state.absolute()
        return cls(
            stream or f"sqlite:///{folder / 'events.db'}",
            ledger or f"sqlite:///{folder / 'ledger.db'}",
        )


_NODES = ("", "+sentinel", "+cluster")
_KINDS = {
    "kafka": ("kafka", "kafkas"),
    "redis": tuple(f"{scheme}{kind}" for kind in _NODES for scheme in ("redis", "rediss")),
}


def source_urls(
    *, kafka: str | None, redis: str | None, stream: str | None
) -> dict[str, str | None]:
    """Where topics of others are, by kind; where the event log is, if that is of the kind.

    The addresses may hold passwords.

    Raises:
        SettingsError: an address is of another kind.
    """
    given = {"kafka": kafka, "redis": redis}
    found: dict[str, str | None] = {}
    for kind, schemes in _KINDS.items():
        address = given[kind] or (stream if _scheme(stream) in schemes else None)
        if address is not None and _scheme(address) not in schemes:
            # An address without a scheme stays out of the message: it may hold a password.
            said = f"the scheme {_scheme(address)!r}" if "://" in address else "no scheme"
            raise SettingsError(
                f"--{kind}: found an address with {said}, expected "
                f"{kind}://HOST:PORT, or {schemes[1]}:// with TLS"
            )
        found[kind] = address
    return found


def _scheme(address: str | None) -> str:
    return (address or "").partition("://")[0]


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept; None: everything.

    log_s        of the event log, event time
    rejected     events that could not be used: the newest of each model, and of those refused at
                 the door
    decisions_s  of the decisions, event time
    """

    log_s: float | None = duration_s(RETAIN)
    rejected: int = KEEP_REJECTED
    decisions_s: float | None = None

    @classmethod
    def of(cls, retain: str, keep_rejected: int, keep_decisions: str) -> Retention:
        """As they are given: durations such as `1d`, or `forever`."""
        return cls(
            _span_s(retain, "--retain"), keep_rejected, _span_s(keep_decisions, "--keep-decisions")
        )


def _span_s(text: str, name: str) -> float | None:
    if text == "forever":
        return None
    try:
        return duration_s(text)
    except ValueError as exc:
        raise SettingsError(f"{name}: found {text!r}, expected {exc}, or forever") from exc


def span_s(text: str, name: str) -> float:
    """A setting that is a duration, in seconds."""
    try:
        return duration_s(text)
    except ValueError as exc:
        raise SettingsError(f"{name}: found {text!r}, expected {exc}") from exc


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of `understudy serve`.

    topics      where topics that policies name are, by kind
    stores      None: files in the state folder
    router      without its address, routers are elsewhere
    namespaces  of the cluster that are watched, none: all; None: there is no cluster
    workers     processes that fold partitions; None: as many as policies ask for and cores can run
    forget_routers_s  how long a router that is away keeps arms from being scaled down
    """

    policies: Path
    state: Path
    api: Address
    router: Address | None
    xds: Address
    namespaces: tuple[str, ...] | None = None
    stores: StoreUrls | None = None
    retention: Retention = field(default_factory=Retention)
    topics: Mapping[str, str | None] = field(default_factory=dict)
    workers: int | None = None
    forget_routers_s: float = duration_s(FORGET_ROUTERS)


def router_address(text: str) -> Address | None:
    """The setting `--router`: an address of a local router, or `none` for routers elsewhere."""
    return None if text == "none" else Address.parse(text, "--router")


def watched_namespaces(text: str | None) -> tuple[str, ...] | None:
    """The setting `--kubernetes`: names of namespaces, with commas, or `*` for all of them."""
    if text is None or not text.strip():
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return () if "*" in names else names


def default_state() -> Path:
    """The XDG state folder."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "understudy"


def policy_text(file: Path) -> str:
    """The text of a policy file; raises PolicyError when it cannot be read."""
    try:
        with file.open("rb") as opened:
            data = opened.read(LARGEST_POLICY + 1)
        if len(data) > LARGEST_POLICY:
            fault = Problem("", "a file of more than 1 MiB", "a policy of at most 1 MiB")
            raise PolicyError(str(file), (fault,))
        return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read()
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        fault = Problem("", f"the byte {exc.object[exc.start]:#04x}", "text in UTF-8", line=line)
        raise PolicyError(str(file), (fault,)) from exc
    except OSError as exc:
        fault = Problem("", f"no readable file ({exc})", "a policy in YAML")
        raise PolicyError(str(file), (fault,)) from exc


def configure_logs() -> None:
    """Sentences on a terminal, JSON elsewhere; on stderr, so that stdout stays a contract."""
    level = logging.getLevelName(os.environ.get("UNDERSTUDY_LOG_LEVEL", "INFO").upper())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    trace = [] if sys.stderr.isatty() else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            *trace,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            level if isinstance(level, int) else 20
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
