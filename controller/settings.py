"""Where `serve` finds its things: options, else `UNDERSTUDY_…` variables, else defaults."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import structlog

from controller.errors import PolicyError, Problem, UnderstudyError


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
        return f"{self.host}:{self.port}"


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


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of `understudy serve`.

    stores      None: files in the state folder
    router      without its address, routers are elsewhere
    namespaces  of the cluster that are watched, none: all; None: there is no cluster
    """

    policies: Path
    state: Path
    api: Address
    router: Address | None
    xds: Address
    namespaces: tuple[str, ...] | None = None
    stores: StoreUrls | None = None


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
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
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
