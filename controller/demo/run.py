"""The conductor of `understudy demo`: starts everything, offers two versions, watches, checks.

    train -> model servers -> controller -> users -> offer v3 -> (rolled back?) -> offer v2
          -> (promoted?) -> users stop -> last rewards -> the books are compared -> summary

Nothing is scripted. The conductor makes no use of the operator's commands; after a version is
offered it can only wait for the decisions that the policy leads to, and if they are others than it
hoped for, or do not come in time, the demo has failed and says why.

Invariant: however the demo ends, all its processes end within 5 s (see `children`).
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import httpx
import msgspec
from rich.console import Console

from controller.demo.children import Child, Children
from controller.demo.control import Control, Report
from controller.demo.models import load_holdout
from controller.demo.tally import Account, reconcile
from controller.demo.terminal import Screen, open_screen
from controller.demo.users import MODEL, Habits, Users
from controller.errors import Permanent, Retryable, UnderstudyError

CHAMPION, WORSE, BETTER = "v1", "v3", "v2"

_SERVE = ("-m", "controller.cli", "serve")
_PLACEHOLDER = "127.0.0.1:9001"
_START_WITHIN_S = 60.0
_POLL_EVERY_S = 0.5
_BALANCE_WITHIN_S = 30.0
_WARM_UP = 300
"""Answers of the champion before the first candidate is offered."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the demo runs. `serve` is the controller's command, after `python`."""

    keep: bool = False
    output: str = "table"
    state: Path | None = None
    rate_hz: float = 300.0
    population: int = 10_000
    time_limit_s: float = 150.0
    seed: int | None = None
    serve: tuple[str, ...] = _SERVE


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of it; contract of `demo -o json`."""

    champion: str
    rolled_back: list[str]
    requests: int
    rewards: int
    lost: int
    seconds: float

    @property
    def is_as_hoped(self) -> bool:
        """Whether the better version serves, the worse one is gone, and the books agree."""
        fates = (self.champion, self.rolled_back, self.lost)
        return fates == (BETTER, [WORSE], 0)


def demo(  # noqa: PLR0913 - a command's options
    *,
    keep: bool = False,
    output: str = "table",
    state: Path | None = None,
    rate: float = 300.0,
    users: int = 10_000,
    time_limit_s: float = 150.0,
    seed: int | None = None,
) -> int:
    """Run the demo; gives the exit code.

    rate is in requests per second; `state` is a folder that keeps everything, by default a
    temporary one. Without a `seed` the traffic is another one each time.
    """
    return run(
        Settings(
            keep=keep,
            output=output,
            state=state,
            rate_hz=rate,
            population=users,
            time_limit_s=time_limit_s,
            seed=seed,
        )
    )


def run(settings: Settings) -> int:
    """`demo` with every setting; 0 as hoped, 1 not, 130 interrupted."""
    try:
        with _home(settings) as home:
            return asyncio.run(_interruptible(settings, home))
    except UnderstudyError as exc:
        _complain(f"the demo failed: {exc}")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 130


@contextmanager
def _home(settings: Settings) -> Iterator[Path]:
    """The folder for models, policy, logs and the controller's state."""
    if settings.state is not None:
        try:
            settings.state.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise Permanent(f"the folder cannot be made: {exc}; give another --state") from exc
        if any(settings.state.iterdir()):
            raise Permanent(f"{settings.state} is not empty; the demo starts with a clean slate")
        yield settings.state.resolve()
        return
    if settings.keep:
        yield Path(tempfile.mkdtemp(prefix="understudy-demo-"))
        return
    with tempfile.TemporaryDirectory(prefix="understudy-demo-") as folder:
        yield Path(folder)


async def _interruptible(settings: Settings, home: Path) -> int:
    """Run until it is done or a signal comes; either way everything is cleared away."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    screen = open_screen(settings.output, Console())
    async with AsyncExitStack() as stack:
        conductor = Conductor(settings, home, screen, stack)
        summary = await conductor.play()
        _print(summary, settings.output)
        if settings.keep:
            with suppress(asyncio.CancelledError):
                await conductor.go_on()
        return 0 if summary.is_as_hoped else 1


class Conductor:
    """One run of the demo. What it starts is handed to `stack`, which ends it."""

    def __init__(
        self, settings: Settings, home: Path, screen: Screen, stack: AsyncExitStack
    ) -> None:
        self._settings, self._home, self._screen, self._stack = settings, home, screen, stack
        self._children = Children(home / "logs")
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._control: Control
        self._users: Users

    async def play(self) -> Summary:
        """The whole of it, to the summary.

        Raises:
            Permanent: something did not start, died, or was decided otherwise than hoped.
        """
        self._stack.push_async_callback(self._children.stop)
        accuracy = await self._train()
        endpoints = await self._start_models(list(accuracy))
        await self._start_controller(endpoints[CHAMPION])
        with self._screen:
            self._users.start()
            await self._until("traffic flows", self._is_warm)
            for version, is_settled in ((WORSE, self._is_gone), (BETTER, self._is_champion)):
                await self._offer(version, endpoints[version], accuracy[version])
                await self._until(f"{version} is settled", is_settled)
            return await self._close_the_books()

    async def go_on(self) -> None:
        """Leave everything running and the users asking, until cancelled."""
        self._screen.say(f"still running, Ctrl-C ends it; state in {self._home}")
        self._users.start()
        with self._screen:
            while True:
                await self._look()
                await asyncio.sleep(_POLL_EVERY_S)

    # --- starting -----------------------------------------------------------------------------

    async def _train(self) -> dict[str, float]:
        command = ("-m", "controller.demo.models", str(self._home / "models"))
        child = await self._children.start("training", command)
        said = await self._children.said(child, "accuracy", _START_WITHIN_S)
        await self._children.finished(child, _START_WITHIN_S)
        accuracy: dict[str, float] = said["accuracy"]
        self._screen.say(
            "three models, right on unseen images: "
            + ", ".join(f"{name} {share:.1%}" for name, share in sorted(accuracy.items()))
        )
        return accuracy

    async def _start_models(self, versions: list[str]) -> dict[str, str]:
        """Start a server for each version; gives their endpoints. They may still be loading."""
        started: dict[str, Child] = {}
        for version in versions:
            path = self._home / "models" / f"{version}.pickle"
            command = ("-m", "controller.demo.server", "--model", str(path))
            started[version] = await self._children.start(version, command)
        endpoints: dict[str, str] = {}
        for version, child in started.items():
            said = await self._children.said(child, "port", _START_WITHIN_S)
            endpoints[version] = f"127.0.0.1:{said['port']}"
        return endpoints

    async def _start_controller(self, champion: str) -> None:
        policies = self._home / "policies"
        policies.mkdir()
        (policies / f"{MODEL}.yaml").write_text(policy(champion))
        places = [f"--{what}=127.0.0.1:0" for what in ("api", "router", "xds")]
        folders = [f"--policies={policies}", f"--state={self._home / 'state'}"]
        child = await self._children.start(
            "controller", [*self._settings.serve, *folders, *places, "-o", "json"]
        )
        ready = await self._children.said(child, "ready", _START_WITHIN_S)
        http = httpx.AsyncClient(base_url=ready["api"], timeout=10.0, trust_env=False)
        await self._stack.enter_async_context(http)
        self._control = Control(http, MODEL)
        await self._champion_answers(champion)
        self._users = Users(
            router=ready["router"],
            control=self._control,
            holdout=load_holdout(self._home / "models"),
            habits=Habits(rate_hz=self._settings.rate_hz, population=self._settings.population),
            seed=self._settings.seed,
        )
        self._stack.push_async_callback(self._users.close)
        self._screen.say(f"dashboard: {ready['api']}/")

    async def _champion_answers(self, endpoint: str) -> None:
        """Wait until the champion has loaded its model: users should not pay for our start."""
        async with httpx.AsyncClient(trust_env=False, timeout=_START_WITHIN_S) as http:
            try:
                (await http.get(f"http://{endpoint}/v2/health/ready")).raise_for_status()
            except httpx.HTTPError as exc:
                self._children.check()
                raise Permanent(f"{CHAMPION} does not answer: {exc!r}") from exc

    # --- watching -----------------------------------------------------------------------------

    async def _offer(self, version: str, endpoint: str, accuracy: float) -> None:
        await self._control.offer(version, endpoint, parent=CHAMPION, accuracy=accuracy)
        self._screen.say(f"{self._seconds():5.1f} s  {version} is offered")

    async def _until(self, what: str, is_so: Callable[[Report], Awaitable[bool]]) -> None:
        """Watch until `is_so`; raises `Permanent` at the time limit."""
        while True:
            report = await self._look()
            if report is not None and await is_so(report):
                return
            if self._seconds() > self._settings.time_limit_s:
                last = report.reason if report else "the controller does not answer"
                raise Permanent(
                    f"not within {self._settings.time_limit_s:g} s: {what}. "
                    f"The controller's last word: {last}"
                )
            await asyncio.sleep(_POLL_EVERY_S)

    async def _look(self) -> Report | None:
        """Show the present report; None when the controller is busy."""
        self._children.check()
        if (failure := self._users.failure()) is not None:
            raise Permanent(f"the users stopped: {failure!r}") from failure
        try:
            report = await self._control.report()
        except Retryable:
            return None
        self._screen.show(report, self._users.tally, self._seconds())
        return report

    async def _is_warm(self, report: Report) -> bool:
        return sum(arm.exposures for arm in report.arms) >= _WARM_UP

    async def _is_gone(self, report: Report) -> bool:
        if report.champion == WORSE:
            raise Permanent(f"{WORSE} was promoted: {report.reason}")
        return WORSE in await self._rolled_back() and report.weight_in_force(WORSE) == 0

    async def _is_champion(self, report: Report) -> bool:
        if BETTER in await self._rolled_back():
            raise Permanent(f"{BETTER} was rolled back: {report.reason}")
        is_alone = report.weight_in_force(BETTER) == 10_000
        return report.champion == BETTER and is_alone and report.phase in {"promoted", "idle"}

    async def _rolled_back(self) -> list[str]:
        """The versions that decisions rolled back, in order."""
        try:
            decisions = await self._control.decisions()
        except Retryable:
            return []
        return list(dict.fromkeys(d.candidate for d in decisions if d.verdict == "roll_back"))

    # --- ending -------------------------------------------------------------------------------

    async def _close_the_books(self) -> Summary:
        """Stop the users, wait for the last reward, compare the counts."""
        await self._users.stop()
        await self._users.drain(_BALANCE_WITHIN_S)
        report, account = await self._balance()
        if account.lost:
            why = ", ".join(f"{n} x {text}" for text, n in self._users.tally.why.most_common(5))
            _complain(f"lost: {account.sentence()} ({why})")
        tally = self._users.tally
        return Summary(
            champion=report.champion,
            rolled_back=await self._rolled_back(),
            requests=tally.sent,
            rewards=tally.accepted,
            lost=account.lost,
            seconds=round(self._seconds(), 1),
        )

    async def _balance(self) -> tuple[Report, Account]:
        """The accounts when they agree, or as they are when the time is over."""
        ends_s = self._loop.time() + _BALANCE_WITHIN_S
        while True:
            report = await self._look()
            is_over = self._loop.time() > ends_s
            if report is not None:
                account = self._account(report)
                # Requests that were lost stay lost; the rest may still be on its way.
                if account.lost == account.requests or is_over:
                    return report, account
            elif is_over:
                raise Permanent("the controller stopped answering; the books cannot be compared")
            await asyncio.sleep(_POLL_EVERY_S)

    def _account(self, report: Report) -> Account:
        return reconcile(
            self._users.tally,
            exposures={arm.arm: arm.exposures for arm in report.arms},
            joined=sum(arm.rewards for arm in report.arms),
            rejected=report.rejected,
        )

    def _seconds(self) -> float:
        return self._loop.time() - self._began_s


def policy(champion: str) -> str:
    """The demo's policy with the champion's endpoint in it."""
    text = files("controller.demo").joinpath("policy.yaml").read_text()
    assert text.count(_PLACEHOLDER) == 1
    return text.replace(_PLACEHOLDER, champion)


def _complain(text: str) -> None:
    """To standard error: `-o json` prints one object on standard output and nothing else."""
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def _print(summary: Summary, output: str) -> None:
    if output == "json":
        sys.stdout.write(msgspec.json.encode(asdict(summary)).decode() + "\n")
        sys.stdout.flush()
        return
    console = Console()
    verdict = "as hoped" if summary.is_as_hoped else "NOT as hoped"
    console.print(
        f"{verdict}: {summary.champion} serves, rolled back: {', '.join(summary.rolled_back)}; "
        f"{summary.requests:,} requests, {summary.rewards:,} rewards, {summary.lost} lost, "
        f"{summary.seconds:g} s",
        highlight=False,
        soft_wrap=True,
    )
