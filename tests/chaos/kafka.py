"""A Kafka of one broker, as a store of the scene; its jars are those of `tests.stores.kafka`."""

from __future__ import annotations

import shutil
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.chaos.hosts import Disk, Host
from tests.chaos.services import Service
from tests.chaos.stores import DISK_MIB, Store
from tests.processes import until
from tests.stores import kafka as broker

_PORT, _CONTROLLER = 9092, 9093


def kafka_stream(folder: Path, _state: Path) -> Store:
    """A broker that is its own controller. It does not sync, as Kafka does not by itself."""
    archive = broker.home() / broker.ARCHIVE
    assert archive.exists(), broker.NOT_INSTALLED
    host, disk = Host("kafka", folder), Disk(folder / "kafka", DISK_MIB)
    shutil.copytree(broker.home() / "formatted", disk.folder / "data")
    entrances = f"PLAINTEXT://{host.address}:{_PORT},CONTROLLER://127.0.0.1:{_CONTROLLER}"
    where = {"listeners": entrances, "log.dirs": disk.folder / "data"}
    broker.write_settings(folder, broker.settings_of(_PORT, (_CONTROLLER,), 1) | where)
    options = (f"-XX:SharedArchiveFile={archive}", "-cp", broker.home() / "jars" / "*")
    command = (*broker.JAVA, *options, "kafka.Kafka", folder / "server.properties")
    service = Service("kafka", host, folder, lambda: command)
    service.disk = disk
    return Store(
        f"kafka://{host.address}:{_PORT}/chaos?durability=unchecked",
        [service],
        lambda: until("Kafka answers", lambda: _answers(host), 60),
    )


def _answers(host: Host) -> bool:
    client = AdminClient({"bootstrap.servers": f"{host.address}:{_PORT}", "log_level": 0})
    try:
        return bool(client.list_topics(timeout=1).brokers)
    except KafkaException:
        return False
