"""What went wrong in Kafka, in our words: whose fault it is, and whether to try again.

The client tries again by itself for as long as a call may take, and then says only that the time is
over. What kept it from its work it tells on the side (`error_cb`): a refused connection, a wrong
password. So the last such word is kept, and makes of "timed out" a sentence with a remedy.

Invariant: what is not known to be temporary is permanent.
"""

# ruff: noqa: SLF001 - the client marks its own errors, as against Kafka's, by an underscore

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException

from controller.errors import BackendError, Permanent, Retryable


class Hanging(Retryable):
    """Records of a topic belong to a transaction that Kafka forgot to end."""


class Gone(Permanent):
    """There is no record at this place of a topic: its oldest ones were deleted."""


class Faults:
    """Maps the errors of all clients of one log."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._said: KafkaError | None = None
        self._refusal: KafkaError | None = None

    def settings(self) -> dict[str, Any]:
        """What each client is made with, so that it tells us and not the standard error."""
        return {"error_cb": self._heard, "logger": _SILENT}

    def _heard(self, error: KafkaError) -> None:
        """Keep what a client says on the side; may be called from any thread."""
        if error.code() in _REFUSALS or _TLS_ALERT in error.str():
            self._refusal = error
        self._said = error

    @contextmanager
    def mapped(self) -> Iterator[None]:
        """Foreign errors become ours."""
        try:
            yield
            self._said = self._refusal = None
        except KafkaException as exc:
            raise self.ours(exc.args[0]) from exc
        except KafkaError as exc:  # so does a fatal one leave a call that brings news of it
            raise self.ours(exc) from exc
        except (BufferError, RuntimeError, ValueError) as exc:
            raise Permanent(f"event log {self._name}: {exc}") from exc

    def ours(self, error: KafkaError) -> BackendError:
        """The error of ours that says the same."""
        if error.code() in _FENCED:
            why = "another process had to wait for this one's append, and ended it"
            return Retryable(f"event log {self._name}: {why}: it is tried again")
        if error.code() in _OVER:
            return self.timed_out(error.str())
        if error.code() in _REFUSALS:
            return self._refused(error)
        message = f"event log {self._name}: {error.str()}"
        if error.code() in _TRANSIENT or (error.retriable() and not error.fatal()):
            return Retryable(f"{message}: it is tried again", after_s=1.0)
        remedy = _TLS_FILES if _TLS_SETTING in message else _REMEDIES.get(error.code(), "")
        return Permanent(f"{message}{remedy}")

    def timed_out(self, what: str) -> BackendError:
        """The error of a call that came to no end: what was said on the side is its cause."""
        if self._refusal is not None:
            return self._refused(self._refusal)
        cause = f" ({self._said.str()})" if self._said is not None else ""
        return Retryable(
            f"event log {self._name}: {what}{cause}: see that its brokers run; it is tried again",
            after_s=1.0,
        )

    def damaged(self, what: str) -> Permanent:
        """The log is not what we wrote."""
        return Permanent(
            f"event log {self._name} is damaged: {what}: stop the controller and restore it from "
            "a backup"
        )

    def _refused(self, error: KafkaError) -> Permanent:
        return Permanent(
            f"event log {self._name}: {error.str()}: see to the user, the password, the "
            "certificates and the ACLs, which docs/event-log.md lists"
        )


_SILENT: Final = logging.getLogger("controller.stream.kafka.client")
_SILENT.addFilter(lambda _: False)  # all of it is in the errors; uvicorn's set-up would enable it

_FENCED: Final = frozenset(
    {
        KafkaError._FENCED,
        KafkaError._FATAL,  # of a producer that was fenced before; another's cause, a new one says
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
    }
)
_OVER: Final = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._WAIT_COORD,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
_REFUSALS: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.SECURITY_DISABLED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
_TRANSIENT: Final = frozenset(
    {
        KafkaError._DESTROY,
        KafkaError._DESTROY_BROKER,  # one that is gone from the cluster, with what it was asked
        KafkaError._NOENT,  # of a leader, while a broker is away
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.UNKNOWN,  # Kafka 4.4, of a commit while another process fences its producer
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.INVALID_TXN_STATE,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.NOT_CONTROLLER,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.PREFERRED_LEADER_NOT_AVAILABLE,
    }
)
"""What time mends: elections, restarts, a replica that is behind, a transaction that was ended."""
_TLS_ALERT: Final = "tls alert"
"""By which a broker ends a connection whose certificate, or lack of one, it does not accept."""
_TLS_SETTING: Final = "ssl."
_TLS_FILES: Final = (
    ": see that the files which the address names as ca, certificate and key can be read, and are "
    "in PEM"
)
_REMEDIES: Final = {
    KafkaError.MSG_SIZE_TOO_LARGE: ": raise max.message.bytes of the topic",
    KafkaError.INVALID_REPLICATION_FACTOR: ": there are fewer brokers than copies are asked for; "
    "see ?replication in the address",
    KafkaError.POLICY_VIOLATION: ": the brokers do not allow such a topic: make it yourself",
}
