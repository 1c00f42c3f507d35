"""The last snapshot that a router accepted, kept in a file over a restart of the controller."""

from __future__ import annotations

import base64
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog
from google.protobuf.message import DecodeError

from controller.errors import InvariantError
from controller.router.snapshot import CDS, MESSAGES, TYPES, Snapshot, of_resources

log = structlog.get_logger()


def remembered(memory: Path | None) -> Snapshot | None:
    """The snapshot of the last run; one that cannot be read is as good as none."""
    try:
        return load(memory.read_bytes()) if memory is not None else None
    except (OSError, InvariantError):
        return None


def remember(memory: Path | None, snapshot: Snapshot) -> None:
    """Keep the snapshot for the next run; without a file, nothing is kept.

    Nor is anything where the disk is full: a router must not be given an older split than it has.
    """
    if memory is None:
        return
    fresh = memory.with_suffix(".new")
    try:
        fresh.write_bytes(dump(snapshot))
        fresh.replace(memory)
    except OSError as exc:
        log.warning("no split is remembered for the next start", why=str(exc))
        for each in (fresh, memory):
            with suppress(OSError):
                each.unlink()


def dump(built: Snapshot) -> bytes:
    """The snapshot as a document, to be kept over a restart."""
    resources = {
        kind: {
            name: base64.b64encode(message.SerializeToString(deterministic=True)).decode()
            for name, message in named.items()
        }
        for kind, named in built.resources.items()
    }
    return msgspec.json.encode(
        {"epochs": dict(built.epochs), "led_to": sorted(built.led_to), "resources": resources}
    )


def load(document: bytes) -> Snapshot:
    """The snapshot that `dump` wrote; raises InvariantError when it is not one."""
    try:
        tree = msgspec.json.decode(document)
        resources = {
            kind: {
                name: MESSAGES[kind].FromString(base64.b64decode(text))
                for name, text in tree["resources"][kind].items()
            }
            for kind in TYPES
        }
        led_to = frozenset(tree.get("led_to", resources[CDS]))  # an older version wrote none
        return of_resources(resources, tree["epochs"], led_to)
    except (ValueError, KeyError, TypeError, AttributeError, DecodeError) as exc:
        raise InvariantError(f"not a stored snapshot: {exc}") from exc
