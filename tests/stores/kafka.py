"""A Kafka of our own: one broker in a folder, on a free port, that ends with the tests.

`python -m tests.stores.kafka` (part of `make services`) fetches the broker's jars, named by
`kafka_jars/pom.xml`, from Maven Central into a folder named by that file's digest. Beside them it
puts what makes a start quick: a formatted data folder, of which a broker takes a copy, and an
archive of Java's classes as they were once loaded (1.7 s of processor time for a start in place of
3.2 s, and no second Java to format).

Invariant: where the archive is, all is. It is made last, under a lock; what has none is made anew.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self
from uuid import uuid4

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from controller.errors import Permanent, Retryable
from tests.cluster.certificates import Authority
from tests.processes import Child, free_port, until

POM = Path(__file__).parent / "kafka_jars" / "pom.xml"
NOT_INSTALLED = "Kafka is not installed: run `make services`"
CLUSTER_ID = "understudy-tests-00000"  # 22 characters of base 64, as Kafka wants them

ARCHIVE = "classes.jsa"

# A broker that lives for seconds: a small heap, the quickest compiler, the simplest collector.
JAVA = (
    "java",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
)


class Kafka:
    """One broker, which is its own controller, or one of several that are each other's.

    It does not sync to the disk, as Kafka does not by itself: what these tests kill is the broker,
    but never the machine.

    users        name -> password: those who may enter by `guarded`, and there do what ACLs allow
    tls          signs the broker's certificate: `guarded` is behind TLS then, and so is `mutual`,
                 where a certificate of the client's takes the place of a password
    node         its number, from 1
    controllers  the ports of all controllers in the order of their numbers; else it is alone
    settings     of the broker, over ours; `_` stands for `.` in their names
    """

    def __init__(
        self,
        users: dict[str, str] | None = None,
        *,
        tls: Authority | None = None,
        node: int = 1,
        controllers: Sequence[int] = (),
        **settings: object,
    ) -> None:
        archive = home() / ARCHIVE
        assert archive.exists(), NOT_INSTALLED
        self.node, self._tls = node, tls
        ports = controllers or (free_port(),)
        self._begin(f"-XX:SharedArchiveFile={archive}", ports, users or {}, settings)

    @classmethod
    def archiving(cls, to: Path) -> Self:
        """One that writes the archive of its classes when it ends in good order."""
        made = cls.__new__(cls)
        made.node, made._tls = 1, None
        made._begin(f"-XX:ArchiveClassesAtExit={to}", (free_port(),), {}, {})
        return made

    def _begin(
        self,
        archive: str,
        controllers: Sequence[int],
        users: dict[str, str],
        settings: dict[str, object],
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="understudy-kafka-"))
        shutil.copytree(home() / "formatted", self._folder / "data")
        _number(self._folder / "data", self.node)
        self.port, guarded = free_port(), free_port()
        self.guarded, self.mutual = f"127.0.0.1:{guarded}", f"127.0.0.1:{free_port()}"
        self._names = itertools.count(1)
        ours = settings_of(self.port, controllers, self.node)
        if users:
            ours |= _guard(str(ours["listeners"]), self.guarded, users)
        if self._tls is not None:
            ours |= _encrypt(ours, self.mutual, self._tls)
        given = {name.replace("_", "."): value for name, value in settings.items()}
        write_settings(self._folder, ours | given)
        self._server = Child(
            "kafka",
            (*JAVA, archive, "-cp", home() / "jars" / "*", "kafka.Kafka", "server.properties"),
            self._folder / "log",
        )

    @property
    def bootstrap(self) -> str:
        """`HOST:PORT` of the broker."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The broker's process."""
        return self._server.pid

    def start(self, timeout_s: float = 60) -> Self:
        """Ready for clients; on the same port and data as before, if it ran before."""
        self.launch()
        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        until("Kafka answers", lambda: self._answers(client), timeout_s)
        return self

    def launch(self) -> None:
        """Begin to start, for somebody who waits for several at once."""
        self._server.start()

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._server.is_running

    def check(self) -> None:
        """Raise, with what it said last, if it has ended by itself."""
        self._server.check()

    def stop(self, grace_s: float = 20) -> None:
        """End it in good order."""
        self._server.stop(grace_s)

    def kill(self) -> None:
        """SIGKILL."""
        self._server.stop()

    def pause(self) -> None:
        """Be silent, as if it hung, until `resume`."""
        self._server.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._server.signal(signal.SIGCONT)

    def forget(self, topic: str, batches: int) -> None:
        """Cut the last batches off a topic, as if they had never been written; while it is down."""
        assert not self._server.is_running
        (log,) = (self._folder / "data" / f"{topic}-0").glob("*.log")
        content, starts, at = log.read_bytes(), [], 0
        while at + 12 < len(content) and (size := int.from_bytes(content[at + 8 : at + 12])):
            starts.append(at)
            at += 12 + size
        os.truncate(log, starts[-batches])

    def address(self, **options: object) -> str:
        """The address of a new event log."""
        given = {"durability": "unchecked"} | options
        query = "&".join(f"{name}={value}" for name, value in given.items())
        return f"kafka://{self.bootstrap}/log{next(self._names)}?{query}"

    def tail(self) -> str:
        """The last lines that it wrote."""
        return self._server.tail()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """End it, and leave nothing behind."""
        self._server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self, client: AdminClient) -> bool:
        self._server.check()
        try:
            return bool(client.list_topics(timeout=1).brokers)
        except KafkaException:
            return False


def refused(act: Callable[[], object]) -> Permanent:
    """What is said to who is not let in; where the broker is late, as on a busy machine, again."""
    for _ in range(10):
        try:
            act()
        except Retryable:
            continue
        except Permanent as exc:
            return exc
        raise AssertionError("it was let in")
    raise AssertionError("nobody answered")


def home() -> Path:
    """Where jars and formatted data of the present `pom.xml` are, or belong."""
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "understudy" / "kafka" / digest


def fetch() -> None:
    """Make `home`, unless it is there. Several processes may ask at once."""
    place = home()
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (place / ARCHIVE).exists():
            return
        began = time.monotonic()
        print("fetching the jars of Kafka from Maven Central", flush=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        _copy_jars(place / "jars")
        _format(place)
        _archive(place)
        print(f"fetched in {time.monotonic() - began:.0f} s: {place}", flush=True)


def _copy_jars(to: Path) -> None:
    command = ("mvn", "-q", "-B", "-Dstyle.color=never", "-f", POM, "dependency:copy-dependencies")
    subprocess.run([*map(str, command), f"-DoutputDirectory={to}"], check=True)


def _format(made: Path) -> None:
    """An empty data folder. It knows no port: brokers on any may start from it."""
    write_settings(made, {**settings_of(9092, (9093,), 1), "log.dirs": made / "formatted"})
    tool = ("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", "server.properties")
    subprocess.run(
        [*JAVA, "-cp", str(made / "jars" / "*"), *tool],
        check=True,
        cwd=made,
        stdout=subprocess.DEVNULL,
    )


def _archive(place: Path) -> None:
    """Java knows the classes of an archive by the path of their jars: it is made in place."""
    made = place / f"{ARCHIVE}.part"
    with Kafka.archiving(made) as broker:
        broker.stop(grace_s=120)
    made.rename(place / ARCHIVE)


def _number(data: Path, node: int) -> None:
    """Make a copy of the formatted folder that of another broker."""
    if node == 1:
        return
    file = data / "meta.properties"
    directory = base64.urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")
    text = re.sub(r"node\.id=.*", f"node.id={node}", file.read_text())
    file.write_text(re.sub(r"directory\.id=.*", f"directory.id={directory}", text))


def settings_of(port: int, controllers: Sequence[int], node: int) -> dict[str, object]:
    voters = (f"{number}@127.0.0.1:{each}" for number, each in enumerate(controllers, 1))
    own = controllers[node - 1]
    return {
        "process.roles": "broker,controller",
        "node.id": node,
        "controller.quorum.voters": ",".join(voters),
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{own}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": "data",
        # One broker keeps the one copy of everything.
        "default.replication.factor": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "auto.create.topics.enable": "false",
        # A broker that was killed is let in again when its former life is over: sooner than 9 s.
        "broker.session.timeout.ms": 1_500,
        "broker.heartbeat.interval.ms": 250,
        "log.retention.ms": -1,
        # Small machines: few threads, and memory for the few keys that the cleaner meets.
        "num.network.threads": 2,
        "num.io.threads": 2,
        "log.cleaner.dedupe.buffer.size": 4 << 20,
        "log.cleaner.io.buffer.size": 128 << 10,
    }


def _guard(listeners: str, guarded: str, users: dict[str, str]) -> dict[str, object]:
    """A second entrance, for users with a password; who enters by the first may do all."""
    passwords = " ".join(f'user_{name}="{password}"' for name, password in users.items())
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    return {
        "listeners": f"{listeners},GUARDED://{guarded}",
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_PLAINTEXT"
        ),
        "inter.broker.listener.name": "PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.guarded.plain.sasl.jaas.config": f"{module} required {passwords};",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }


def _encrypt(ours: dict[str, object], mutual: str, tls: Authority) -> dict[str, object]:
    """TLS for users with a password, or with a SCRAM credential, and an entrance by certificate."""
    pair = tls.server("kafka", ["127.0.0.1"])
    key = load_pem_private_key(pair.key.read_bytes(), None)
    pem = pair.certificate.with_suffix(".pem")
    pem.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + pair.certificate.read_bytes()
    )
    return {
        "listeners": f"{ours['listeners']},MUTUAL://{mutual}",
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_SSL,MUTUAL:SSL"
        ),
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "listener.name.guarded.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": pem,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": tls.certificate,
        "listener.name.mutual.ssl.client.auth": "required",
    }


def write_settings(folder: Path, settings: dict[str, object]) -> None:
    lines = (f"{name}={value}\n" for name, value in settings.items())
    (folder / "server.properties").write_text("".join(lines))


if __name__ == "__main__":
    fetch()
