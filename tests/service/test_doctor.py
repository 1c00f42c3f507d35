"""`understudy doctor` on services that are right, and on each that is wrong in its own way."""

from __future__ import annotations

import json
import os
import resource
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command

from controller.bootstrap.machine import check_files, check_policies, check_ports, check_state
from controller.cli.doctor import check_api
from controller.core.model.checks import Finding, Status
from controller.ledger import open_ledger
from controller.ledger.checks import check_ledger
from controller.ledger.database import alembic_config, open_engine, writing
from controller.settings import Address
from controller.stream import open_stream
from controller.stream.checks import check_source, check_stream
from tests.processes import free_port
from tests.service.conftest import Serve, policy_text, run
from tests.stores.disk import fill, small_disk
from tests.stores.postgres import Postgres
from tests.stores.redis import Redis


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """One that syncs to the disk, as it should."""
    with Postgres(fsync="on") as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with Redis() as server:
        yield server


def by_status(found: Iterable[Finding], status: Status) -> dict[str, Finding]:
    return {each.check: each for each in found if each.status is status}


def only_failure(found: Iterable[Finding]) -> Finding:
    failures = by_status(found, Status.FAILED)
    assert len(failures) == 1, failures
    return next(iter(failures.values()))


def all_well(found: Iterable[Finding]) -> list[str]:
    every = list(found)
    # A busy machine may be slow; that is a warning.
    bad = [e for e in every if e.status is not Status.OK and " takes " not in e.found]
    assert not bad, bad
    return [each.check for each in every]


# --- the command ------------------------------------------------------------------------------


def examined(*arguments: object) -> tuple[int, dict[str, dict[str, Any]]]:
    ran = run("doctor", *arguments, "-o", "json")
    return ran.code, {row["check"]: row for row in json.loads(ran.out)}


def test_a_good_installation_is_ok_in_every_line_and_leaves_nothing_behind(
    tmp_path: Path, models: list[int], postgres: Postgres, redis: Redis
) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "m.yaml").write_text(policy_text(models[0]))
    stream, ledger = redis.address(), postgres.database()
    code, found = examined(
        *("--policies", tmp_path / "policies", "--state", tmp_path / "state"),
        *("--stream", stream, "--ledger", ledger, "--redis", stream.partition("?")[0]),
        *("--router", f"127.0.0.1:{free_port()}", "--xds", f"127.0.0.1:{free_port()}"),
    )
    # Others on this machine may use the default port of the API, and be slow.
    odd = [
        row
        for row in found.values()
        if row["status"] != "ok" and row["check"] != "port of --api" and "takes" not in row["found"]
    ]
    assert (code, odd) == (0, [])
    assert {"router", "ledger: durability", "event log: rights", "source: clock"} <= found.keys()
    assert not list(tmp_path.glob("**/.doctor*"))
    with redis.client() as client:
        assert client.keys("*doctor*") == []
        assert client.keys("*:format") == []


def test_a_controller_that_runs_is_asked_and_its_files_are_not_touched(serve: Serve) -> None:
    ran = serve.cli("doctor", "--policies", serve.policies)
    assert ran.code == 0, ran.out
    lines = ran.out.splitlines()
    assert f"ok       controller: 127.0.0.1:{serve.api_port} is ready" in lines
    assert any("used by a serve that runs" in line for line in lines)
    assert any("revision" in line and "the newest" in line for line in lines)
    serve.kill()
    away = only_failure(check_api(Address("127.0.0.1", serve.api_port)))
    assert "does not answer" in away.found
    assert "start understudy serve" in away.remedy


def test_a_policy_that_cannot_be_used_fails(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("kind: Nonsense\n")
    found = only_failure(check_policies(tmp_path))
    assert "bad.yaml" in found.found
    assert "understudy check" in found.remedy


# --- the machine ------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")
def test_a_full_disk_fails_the_folder_the_log_and_the_ledger(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 10) as disk:
        fill(disk)
        found = by_status(check_state(disk / "state"), Status.FAILED)
        assert "No space left" in found["state folder"].found
        assert "make room" in found["state folder: disk"].remedy
        log = only_failure(check_stream(f"sqlite:///{disk}/events.db", time.time))
        assert "disk" in log.remedy
        ledger = only_failure(check_ledger(f"sqlite:///{disk}/ledger.db", time.time))
        assert "disk" in ledger.remedy
    assert not (tmp_path / "disk" / "events.db").exists()


def test_few_files_and_taken_ports_are_said() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        few = check_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert few.status is Status.FAILED
    assert "ulimit -n 4096" in few.remedy
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        (found,) = check_ports([("--xds", address)])
    assert found.status is Status.WARNING
    assert "give another --xds" in found.remedy


# --- the event log ----------------------------------------------------------------------------


def test_files_that_are_not_ours_fail_and_stay_as_they_are(tmp_path: Path) -> None:
    text = tmp_path / "events.db"
    text.write_text("no database at all, but long enough to be read as one" * 20)
    before = text.read_bytes()
    assert "not a database" in only_failure(check_stream(f"sqlite:///{text}", time.time)).found
    assert text.read_bytes() == before
    open_ledger(f"sqlite:///{tmp_path}/ledger.db", clock=time.time).close()
    other = only_failure(check_stream(f"sqlite:///{tmp_path}/ledger.db", time.time))
    assert "another program's" in other.found


def test_a_log_in_a_file_is_fine_before_and_after_it_is_made(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state/events.db"
    all_well(check_stream(url, time.time))
    assert not (tmp_path / "state").exists()
    open_stream(url).close()
    all_well(check_stream(url, time.time))
    assert [each.name for each in (tmp_path / "state").iterdir()] == ["events.db"]


def test_a_redis_that_is_away_or_has_another_password_fails() -> None:
    away = only_failure(check_stream(f"redis://127.0.0.1:{free_port()}/0", time.time))
    assert "refused" in away.found
    assert "see that it runs" in away.remedy
    for several in ("redis+cluster://{}", "redis+sentinel://{}/ours"):
        url = several.format(f"127.0.0.1:{free_port()}")
        for found in (check_stream(url, time.time), check_source(url, time.time)):
            assert "see that it runs" in only_failure(found).remedy
    with Redis() as server:
        with server.client() as client:
            client.config_set("requirepass", "right")
        wrong = f"redis://:wrong@127.0.0.1:{server.port}/0"
        for found in (check_stream(wrong, time.time), check_source(wrong, time.time)):
            refused = only_failure(found)
            assert "password" in refused.remedy
            assert "wrong@" not in str(refused)
        right = f"redis://:right@127.0.0.1:{server.port}/0"
        assert "event log: rights" in all_well(check_stream(right, time.time))


def test_a_redis_that_is_unfit_fails_in_every_way_in_which_it_is() -> None:
    settings = {"appendonly": "no", "maxmemory": "100mb", "maxmemory-policy": "noeviction"}
    with Redis(**settings) as server:
        found = list(check_stream(server.address(), time.time))
        assert "appendonly no" in only_failure(found).found
        assert "?durability=everysec" in only_failure(found).remedy
        assert "event log: memory" in by_status(found, Status.OK)
        with server.client() as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
        evicting = only_failure(check_stream(server.address(), time.time))
        assert evicting.remedy == "set it to noeviction"
        with server.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", client.info("memory")["used_memory"] * 11 // 10)
        full = list(check_stream(server.address(durability="unchecked"), time.time))
        assert "raise maxmemory" in by_status(full, Status.WARNING)["event log: memory"].remedy


def test_a_redis_user_without_the_rights_is_told_which(redis: Redis) -> None:
    with redis.client() as client:
        client.acl_setuser(
            "meek",
            enabled=True,
            passwords=["+pw"],
            keys=["*"],
            commands=["+@all", "-xtrim", "-eval"],
        )
    url = redis.address().replace("redis://", "redis://meek:pw@")
    refused = by_status(check_stream(url, time.time), Status.FAILED)["event log: rights"]
    assert "append" in refused.found
    assert "trim" in refused.found
    assert "delete" not in refused.found


def test_a_replica_is_no_place_for_the_log(redis: Redis) -> None:
    with Redis(replicaof=f"127.0.0.1 {redis.port}") as replica:
        found = by_status(check_stream(replica.address(), time.time), Status.FAILED)
        assert "replica" in " ".join(each.found for each in found.values())


def test_an_address_of_no_known_kind_fails_without_its_password() -> None:
    found = only_failure(check_stream("nats://ana:hunter2@host/0", time.time))
    assert "kafka" in found.remedy
    assert "hunter2" not in str(found)


# --- the ledger -------------------------------------------------------------------------------


def test_a_ledger_in_postgresql_is_fine_before_and_after_it_is_made(postgres: Postgres) -> None:
    url = postgres.database()
    assert "ledger: durability" in all_well(check_ledger(url, time.time))
    with writing(engine := open_engine(url)) as connection:
        assert connection.dialect.has_table(connection, "decisions")
    engine.dispose()
    assert "ledger: term" in all_well(check_ledger(url, time.time))


@pytest.mark.parametrize("is_file", [True, False])
def test_an_old_schema_is_a_warning_and_a_newer_one_fails(
    tmp_path: Path, postgres: Postgres, is_file: bool
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db" if is_file else postgres.database()
    engine = open_engine(url)
    with writing(engine) as connection:
        command.downgrade(alembic_config(connection), "-1")
    old = by_status(check_ledger(url, time.time), Status.WARNING)["ledger: schema"]
    assert "make a backup" in old.remedy
    with writing(engine) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'r9999'")
    engine.dispose()
    newer = by_status(check_ledger(url, time.time), Status.FAILED)["ledger: schema"]
    assert "r9999" in newer.found


def test_a_postgresql_that_is_away_unknown_to_us_or_careless_fails(postgres: Postgres) -> None:
    url = f"postgresql+psycopg://ana:hunter2@127.0.0.1:{free_port()}/x"
    away = only_failure(check_ledger(url, time.time))
    assert "refused" in away.found
    assert "hunter2" not in str(away)
    url = postgres.database().replace("understudy:", "nobody:")
    assert "nobody" in only_failure(check_ledger(url, time.time)).found
    url = postgres.database() + "?options=-csynchronous_commit%3Doff"
    careless = only_failure(check_ledger(url, time.time))
    assert careless.check == "ledger: durability"
    assert "synchronous_commit off" in careless.found


def test_a_user_that_may_only_read_fails_with_the_tables_named(postgres: Postgres) -> None:
    url = postgres.database()
    engine = open_engine(url)
    with writing(engine) as connection:
        connection.exec_driver_sql("CREATE ROLE reader LOGIN")
        connection.exec_driver_sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    engine.dispose()
    found = by_status(check_ledger(url.replace("understudy:", "reader:"), time.time), Status.FAILED)
    assert "INSERT on decisions" in found["ledger: rights"].found
    assert "CREATE" in found["ledger: write"].remedy


# --- clocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ahead_s", "status"), [(-10, Status.WARNING), (3_600, Status.FAILED)])
def test_a_clock_that_is_off_is_seen_against_every_server(
    postgres: Postgres, redis: Redis, ahead_s: float, status: Status
) -> None:
    def clock() -> float:
        return time.time() + ahead_s

    found = [
        *check_ledger(postgres.database(), clock),
        *check_stream(redis.address(), clock),
        *check_source(redis.address().partition("?")[0], clock),
    ]
    seen = by_status(found, status)
    assert {"ledger: clock", "event log: clock", "source: clock"} <= seen.keys()
    word = "behind" if ahead_s > 0 else "ahead"
    assert all(word in each.found for name, each in seen.items() if "clock" in name)
