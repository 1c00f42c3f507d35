"""The scene: what is started, how long it is troubled, and how it comes to rest.

`python -m tests.chaos.scene PLAN` is run by `tests.chaos` as the owner of new namespaces. It prints
the verdict as one JSON object, and what happens meanwhile on standard error.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.chaos import verdict
from tests.chaos.faults import Fault, Link, Trouble, draw
from tests.chaos.hosts import Disk, Host, Step, open_hub
from tests.chaos.keeper import Keeper
from tests.chaos.recount import Rule
from tests.chaos.services import (
    CLI,
    MODELS,
    ROOT,
    USERS,
    Controller,
    Router,
    Service,
    Shipper,
    Worker,
    model_servers,
)
from tests.chaos.spent import Spent
from tests.chaos.stores import LEDGERS, STREAMS
from tests.chaos.users import Config
from tests.processes import Child, until

LOG_MIB, STATE_MIB = 192, 1024
ERRORS = (0.001, 0.001, 0.002, 0.0, 0.02, 0.001, 0.05, 0.001)
"""Share of errors of each model server; versions take them in turn."""

HOUR = 3600

LOOK_S = 2.0
"""Between two looks at who takes how much processor time."""

RESTING = {"idle", "promoted", "rolled_back"}
PATIENCE_S = 30.0
"""How long a rollout may stay at one split before somebody ends it, one way or the other."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is wanted.

    seconds    of users and trouble; what comes after takes as long as the windows do
    workers    of the model's partitions, of which there are as many, or two; 0: no partitions
    every_s    between faults on average
    longest_s  of a fault
    disk_mib   that `ship` may use; beyond it, it drops lines
    """

    folder: str
    seconds: float
    rate_hz: float
    seed: int
    stream: str = "sqlite"
    ledger: str = "sqlite"
    workers: int = 0
    every_s: float = 5.0
    longest_s: float = 6.0
    window_s: float = 15.0
    grace_s: float = 45.0
    rotate_mib: int = 8
    disk_mib: int = LOG_MIB // 2
    reward_share: float = 0.3

    @property
    def rule(self) -> Rule:
        return Rule("ok", self.window_s, self.grace_s)

    @property
    def partitions(self) -> int:
        """Over how many logs the model's events are split; 0: over none but its own."""
        return max(2, self.workers) if self.workers else 0

    @property
    def is_on_one_machine(self) -> bool:
        """Whether a store is a file beside the controller."""
        return "sqlite" in {self.stream, self.ledger}


class Scene:
    """Everything that runs."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.folder = plan, Path(plan.folder)
        open_hub(self.folder)
        self.users_at = Host("users", self.folder, is_ahead=True)
        at = Host("controller", self.folder)
        self.disks = {"controller": Disk(self.folder / "controller", STATE_MIB)}
        state = self.disks["controller"].folder / "state"
        self.stores = [
            STREAMS[plan.stream](self.folder, state),
            LEDGERS[plan.ledger](self.folder, state),
        ]
        models = Host("models", self.folder, is_ahead=True)
        self.models = model_servers(models, self.folder, ERRORS)
        policies = self.folder / "policies"
        policies.mkdir()
        (policies / "m.yaml").write_text(self._policy())
        variables = dict(
            zip(
                ("UNDERSTUDY_STREAM", "UNDERSTUDY_LEDGER"),
                (s.url for s in self.stores),
                strict=True,
            )
        )
        self.controller = Controller(at, self.folder, policies, state, variables)
        self.workers = [self._worker(i + 1, at) for i in range(plan.workers)]
        self.routers = [self._router(f"router-{i}", at) for i in (1, 2)]
        sizes = {"rotate_mib": plan.rotate_mib, "disk_mib": plan.disk_mib}
        self.shippers = [Shipper(each, self.controller.url, **sizes) for each in self.routers]
        self.keepers = [Keeper(each.log, self.folder / each.name) for each in self.routers]
        kept = [each for store in self.stores for each in store.services]
        own = (self.controller, *self.workers)
        self.breakable = [*kept, *own, *self.routers, *self.shippers]
        self.links = self._links(kept, at)
        self.steps = self._steps()
        self.disks |= {each.name: each.disk for each in self.breakable if each.disk is not None}

    def _router(self, name: str, controller: Host) -> Router:
        disk = Disk(self.folder / f"{name}-log", LOG_MIB)
        host = Host(name, self.folder, is_ahead=True)
        return Router(name, host, self.folder, controller, disk)

    def _worker(self, number: int, controller: Host) -> Worker:
        """On a host of its own, where all stores can be reached from there."""
        name, place = f"worker-{number}", self.controller
        host = controller if self.plan.is_on_one_machine else Host(name, self.folder)
        return Worker(name, host, self.folder, place.state, place.stores)

    def _links(self, kept: list[Service], at: Host) -> dict[str, Link]:
        ends = [self.users_at, *(each.host for each in (*kept, *self.routers))]
        found = {f"{host.name}-controller": (host, at) for host in ends}
        for worker in self.workers:
            stores = [] if worker.host is at else [each.host for each in kept]
            found |= {f"{worker.name}-{host.name}": (worker.host, host) for host in stores}
        return found

    def _steps(self) -> dict[str, Step]:
        """What can happen to the clock of each host."""
        hosts = {each.host.name: each.host for each in self.breakable}
        return {
            f"{name} {seconds / HOUR:+.0f} h": Step(host.clock, seconds)
            for name, host in hosts.items()
            for seconds in (HOUR, -HOUR)
        }

    def _policy(self) -> str:
        host, plan = self.models.host.address, self.plan
        unit = "" if plan.partitions else "\n    unit: {header: x-user-id}"
        split = f"\n  partitions: {plan.partitions}" if plan.partitions else ""
        return f"""apiVersion: understudy.dev/v1alpha1
kind: RolloutPolicy
metadata:
  name: m
spec:{split}
  route:
    prefix: /m/{unit}
  champion:
    version: v1
    endpoints: ["{host}:{MODELS + 1}"]
  reward:
    event: ok
    window: {plan.window_s:g}s
    grace: {plan.grace_s:g}s
  guardrails:
    - {{metric: error_rate, max_increase: 2%}}
  gates: {{cooldown: 0s}}
  stages:
    - canary:
        steps: [5%, 20%, 50%]
        min_duration: 4s
        min_outcomes: 50
        margin: 3%
"""

    # --- its life -----------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Start, trouble, rest, compare."""
        self._start()
        faults = self._faults()
        trouble = Trouble(faults, self._things())
        operator = Operator(self.controller, self.models.host.address)
        operator.start()
        users = self._users()
        self.began = time.time()
        users.start()
        spent, looked_at = Spent(), 0.0
        began = time.monotonic()
        while (now := time.monotonic() - began) < self.plan.seconds or not trouble.is_over:
            for sentence in trouble.until(now):
                _say(f"{now:6.1f} s  {sentence}")
            self._watch(users)
            if now >= looked_at:
                spent.look(self._programs(users))
                looked_at = now + LOOK_S
            time.sleep(0.05)
        spent.look(self._programs(users))
        operator.stop()
        _say("all is well again; what is owed is posted")
        users.signal(signal.SIGTERM)
        self._waited("all that is owed was taken", lambda: not users.is_running, 600)
        took_s = time.monotonic() - began
        self._rest()
        self.ended = time.time()
        verdict_ = verdict.compare(self)
        verdict_["faults"] = [
            {"kind": kind, "target": target, "times": times}
            for (kind, target), times in sorted(trouble.counts.items())
        ]
        verdict_["seconds"] = round(took_s, 1)
        verdict_["spent"] = {name: round(s, 1) for name, s in spent.by_name.items()}
        return verdict_

    def _start(self) -> None:
        for keeper in self.keepers:
            keeper.start()
        self.models.start()
        for store in self.stores:
            for service in store.services:
                service.start()
            store.wait()
        self.controller.start()
        for router in self.routers:
            router.prepare()
        for service in (*self.routers, *self.shippers):
            service.start()
        until("the controller is ready", lambda: self.controller.ask("/readyz"), 60)
        for worker in self.workers:
            worker.start()
        is_there = lambda: self.controller.ask("/readyz")["routers"] == len(self.routers)  # noqa: E731
        until("both routers are connected", is_there, 30)
        until("each partition is folded", self._is_laid_out, 30)

    def _is_laid_out(self) -> bool:
        """Before, what comes stands in the model's own log; see docs/partitions.md, Changing P."""
        found = self.controller.ask("/v1/models/m/arms")["health"].get("partitions", [])
        return len([each for each in found if each.get("holder")]) == self.plan.partitions

    def _users(self) -> Child:
        plan = self.plan
        config = Config(
            routers=[each.host.address for each in self.routers],
            port=USERS,
            api=self.controller.url,
            folder=str(self.folder),
            rate_hz=plan.rate_hz,
            reward_share=plan.reward_share,
            window_s=plan.window_s,
            seed=plan.seed,
        )
        command = (sys.executable, "-m", "tests.chaos.users", json.dumps(asdict(config)))
        prefix = (*self.users_at.inside, "env", f"PYTHONPATH={ROOT}")
        return Child("users", command, self.folder / "users.err", prefix)

    def _faults(self) -> list[Fault]:
        plan = self.plan
        names = [each.name for each in self.breakable]
        full = (
            sorted(self.disks)
            if {plan.stream, plan.ledger} == {"sqlite"}
            else sorted(set(self.disks) - {"controller"})
        )
        targets = {
            "kill": names,
            "stop": names,
            "cut": sorted(self.links),
            "full": full,
            "clock": sorted(self.steps),
        }
        return draw(
            random.Random(plan.seed),
            targets,
            begin_s=2.0,
            end_s=max(plan.seconds - 3.0, 3.0),
            every_s=plan.every_s,
            longest_s=plan.longest_s,
        )

    def _things(self) -> dict[str, dict[str, Any]]:
        services = {each.name: each for each in self.breakable}
        return {
            "kill": services,
            "stop": services,
            "cut": self.links,
            "full": self.disks,
            "clock": self.steps,
        }

    def _programs(self, users: Child) -> dict[str, int]:
        running = {each.name: each.pid for each in (*self.breakable, self.models)}
        own = {"scene": os.getpid(), "users": users.pid}
        return own | {name: pid for name, pid in running.items() if pid is not None}

    def _watch(self, users: Child) -> None:
        users.check()
        for service in self.breakable:
            service.watch()

    def _waited(self, what: str, is_so: Callable[[], Any], timeout_s: float) -> None:
        def looked() -> Any:
            for service in self.breakable:
                service.watch()
            return is_so()

        until(what, looked, timeout_s, every_s=0.5)

    def _rest(self) -> None:
        """Until every line has been shipped and every window has closed."""
        time.sleep(2 * 0.1 + 1.0)  # the routers' last lines

        def shipped() -> bool:
            found = [each.figures() for each in self.shippers]
            return all(each.get("waiting_bytes") == 0 for each in found)

        self._waited("all is shipped", shipped, 600)
        for router in self.routers:
            router.end()
        self._waited("all is shipped", shipped, 600)
        for keeper in self.keepers:
            keeper.stop()
        closing_s = self.plan.window_s + self.plan.grace_s + 2.0
        _say(f"all is shipped; windows close within {closing_s:g} s")
        time.sleep(closing_s)

        pending: list[int] = []

        def closed() -> bool:
            """Also where what is left is dated an hour ahead, which takes that long to close."""
            found = self.controller.ask("/v1/models/m/arms")
            if found is not None:
                pending.append(sum(arm["pending"] for arm in found["arms"]))
            return bool(pending) and (not pending[-1] or pending[-60:] == 60 * pending[-1:])

        self._waited("every window is closed", closed, 300)
        time.sleep(2.0)  # what would be counted twice now has its chance to

    def cli(self, *arguments: object, to: str) -> tuple[int, str]:
        """Exit code and output of a command on the scene's stores, which nothing else uses now.

        to  what the file of its output is called, in the folder
        """
        given = {"PYTHONPATH": str(ROOT), **self.controller.stores}
        out = self.folder / to
        with out.open("wb") as file, out.with_suffix(".err").open("wb") as err:
            done = subprocess.run(
                [*CLI, *map(str, arguments)],
                stdout=file,
                stderr=err,
                env=os.environ | given,
                check=False,
            )
        return done.returncode, out.read_text()


class Operator:
    """Offers a version whenever none is on trial, and loses patience with a trial that hangs."""

    def __init__(self, controller: Controller, models: str) -> None:
        self._controller, self._models = controller, models
        self._number, self._epoch = 2, -1
        self._since = time.monotonic()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin; in a thread, because a controller that was stopped answers late."""
        self._thread.start()

    def stop(self) -> None:
        """Leave the model as it is."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(2.0):
            report = self._controller.ask("/v1/models/m/arms")
            if report is not None:
                self._look(report)

    def _look(self, report: dict[str, Any]) -> None:
        now = time.monotonic()
        if report["epoch"] != self._epoch:
            self._epoch, self._since = report["epoch"], now
        if report["phase"] in RESTING:
            self._offer()
        elif now - self._since > PATIENCE_S:
            command = "promote" if self._number % 2 else "rollback"
            self._controller.ask(f"/v1/models/m/{command}", {"reason": "it takes too long"})

    def _offer(self) -> None:
        port = MODELS + self._number % len(ERRORS)
        body = {"version": f"v{self._number}", "endpoints": [f"{self._models}:{port}"]}
        self._controller.ask("/v1/models/m/candidates", body)
        self._number += 1


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def main(text: str) -> int:
    """Print the verdict; 1 where it found a difference."""
    found = Scene(Plan(**json.loads(text))).run()
    print(json.dumps(found))
    return 1 if found["differences"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
