"""Only the controller of the newest term writes, whatever the others believe."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from controller.core.model import Reason, Rejected
from controller.errors import Deposed, Retryable, UnderstudyError
from controller.ledger import Term, open_ledger

FORK = multiprocessing.get_context("fork")


class Controller:
    """A process with a ledger of its own, which does what it is told and says how it went."""

    def __init__(self, url):
        self._here, there = FORK.Pipe()
        self.process = FORK.Process(target=_obey, args=(url, there))
        self.process.start()
        there.close()

    def tell(self, method, *arguments, **options):
        self._here.send((method, arguments, options))

    def answer(self, timeout_s=20):
        assert self._here.poll(timeout_s), "no answer"
        return self._here.recv()

    def do(self, method, *arguments, **options):
        self.tell(method, *arguments, **options)
        return self.answer()

    def signal(self, number):
        os.kill(self.process.pid, number)
        if number == signal.SIGSTOP:
            _, status = os.waitpid(self.process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)

    def end(self):
        self.process.kill()
        self.process.join()
        self._here.close()


def _obey(url, orders):
    with closing(open_ledger(url, clock=lambda: 7.0)) as ledger:
        while True:
            method, arguments, options = orders.recv()
            try:
                orders.send(getattr(ledger, method)(*arguments, **options))
            except UnderstudyError as exc:
                orders.send(exc)


@pytest.fixture
def controller(made):
    running = []

    def make():
        running.append(Controller(made))
        return running[-1]

    yield make
    for each in running:
        each.end()


@pytest.fixture
def second(ledger, made):
    """Another controller's ledger in the same database."""
    with closing(open_ledger(made, clock=lambda: 50.0)) as opened:
        yield opened


def writes(decide, split):
    """Every method that writes, with what it would write after decision 1."""
    late = [(Rejected(3, Reason.LATE), b"{}")]
    return {
        "a decision": ("commit", ("digits",), {"decisions": [(decide(2), [split(2)])]}),
        "a snapshot": ("commit", ("digits",), {"snapshot": (99, b"new")}),
        "a dead letter": ("commit", ("digits",), {"dead_letters": late}),
        "a known decision": ("commit", ("digits",), {"decisions": [(decide(1), [split(1)])]}),
        "nothing": ("commit", ("digits",), {}),
        "done": ("effect_done", ("digits", 1, 0), {}),
        "failed": ("effect_failed", ("digits", 1, 0, "why"), {}),
        "a policy": ("adopt_policy", ("digits", 90, "b", "spec: b"), {}),
        "a refused event": ("reject", ("http", [("malformed", "", b"{")]), {}),
        "fewer snapshots": ("drop_snapshots", ("digits",), {"since": 0}),
    }


def everything(ledger):
    return (
        ledger.decisions("digits"),
        ledger.pending_effects("digits"),
        ledger.snapshot("digits"),
        ledger.policies("digits"),
        ledger.dead_letters("digits"),
        ledger.rejections(),
    )


def test_terms_count_from_one_and_say_who_leads_since_when(ledger, second):
    assert ledger.newest_term() == Term(0, "", 0.0)
    assert ledger.begin_term("a") == 1
    assert second.begin_term("b") == 2
    assert ledger.newest_term() == Term(2, "b", 50.0)
    assert ledger.begin_term("a") == 3


def test_a_ledger_that_began_no_term_writes_as_ever(ledger, second, decide):
    ledger.begin_term("a")
    assert second.is_current()
    second.commit("digits", decisions=[(decide(1), ())])
    assert ledger.decisions("digits") == (decide(1),)


@pytest.mark.parametrize(
    "what",
    [
        "a decision",
        "a snapshot",
        "a dead letter",
        "a known decision",
        "nothing",
        "done",
        "failed",
        "a policy",
        "a refused event",
        "fewer snapshots",
    ],
)
def test_whoever_is_deposed_writes_nothing_of_anything(ledger, second, decide, split, what):
    ledger.begin_term("a")
    ledger.commit("digits", decisions=[(decide(1), [split(1)])], snapshot=(20, b"old"))
    second.begin_term("b")
    before = everything(second)
    method, arguments, options = writes(decide, split)[what]
    with pytest.raises(Deposed, match=r"^b leads since term 2 began; this controller had term 1"):
        getattr(ledger, method)(*arguments, **options)
    assert everything(second) == everything(ledger) == before
    getattr(second, method)(*arguments, **options)
    assert not ledger.is_current()
    assert second.is_current()
    second.require_current()
    with pytest.raises(Deposed, match="b leads since term 2"):
        ledger.require_current()


def test_whoever_begins_a_term_again_may_write_again(ledger, second, decide):
    ledger.begin_term("a")
    second.begin_term("b")
    second.commit("digits", decisions=[(decide(1), ())])
    ledger.begin_term("a")
    ledger.commit("digits", decisions=[(decide(1), ()), (decide(2), ())])
    with pytest.raises(Deposed):
        second.commit("digits", decisions=[(decide(2), ())])
    assert ledger.verify_chain("digits") is None


def test_a_leader_that_was_stopped_while_another_took_over_cannot_commit(controller, decide, split):
    first, other = controller(), controller()
    assert first.do("begin_term", "first") == 1
    assert first.do("commit", "digits", decisions=[(decide(1), [split(1)])]) is None
    first.signal(signal.SIGSTOP)
    first.tell("commit", "digits", decisions=[(decide(2), [split(2)])], snapshot=(50, b"first"))
    first.tell("effect_done", "digits", 1, 0)
    assert other.do("begin_term", "other") == 2
    first.signal(signal.SIGCONT)
    refused = first.answer(), first.answer()
    assert [type(each) for each in refused] == [Deposed, Deposed]
    assert "other leads since term 2" in str(refused[0])
    assert other.do("decisions", "digits") == (decide(1),)
    assert other.do("snapshot", "digits") is None
    assert len(other.do("pending_effects", "digits")) == 1
    assert other.do("commit", "digits", decisions=[(decide(2, reason="mine"), [])]) is None
    assert other.do("verify_chain", "digits") is None


def test_a_commit_is_seen_by_the_next_leader_or_never_made(controller, decide):
    """Terms change hands while the old leader commits as fast as it can, in 30 places."""
    old, new = controller(), controller()
    number = 0
    for turn in range(30):
        old.do("begin_term", f"old {turn}")
        ahead = 20
        for each in range(1, ahead + 1):
            old.tell("commit", "digits", decisions=[(decide(number + each), ())])
        time.sleep(turn / 2_000)
        assert isinstance(new.do("begin_term", f"new {turn}"), int)
        seen = new.do("last_decision", "digits")
        answers = [old.answer() for _ in range(ahead)]
        kept = [each for each in answers if each is None]
        assert answers[: len(kept)] == kept
        assert all(isinstance(each, Deposed) for each in answers[len(kept) :])
        number += len(kept)
        assert (seen.number if seen else 0) == number
    assert new.do("verify_chain", "digits") is None


def test_a_term_begins_only_when_no_transaction_of_the_last_one_is_open(made, decide):
    """And then it knows what that transaction wrote."""
    inside, go_on = threading.Event(), threading.Event()

    def waiting_clock():
        inside.set()  # the commit asks for the time when it has shown its term
        assert go_on.wait(10)
        return 1.0

    with (
        closing(open_ledger(made, clock=waiting_clock)) as old,
        closing(open_ledger(made, clock=lambda: 2.0)) as new,
        ThreadPoolExecutor(2) as pool,
    ):
        go_on.set()
        old.begin_term("old")
        go_on.clear()
        inside.clear()
        committing = pool.submit(old.commit, "digits", decisions=[(decide(1), ())])
        assert inside.wait(10)
        beginning = pool.submit(new.begin_term, "new")
        with pytest.raises(TimeoutError):
            beginning.result(0.5)
        go_on.set()
        assert beginning.result(10) == 2
        assert new.last_decision("digits") == decide(1)
        committing.result(10)
        with pytest.raises(Deposed):
            old.commit("digits", decisions=[(decide(2), ())])


def test_terms_taken_by_many_at_once_are_all_different(controller):
    many = [controller() for _ in range(4)]
    for each in many:
        for _ in range(5):
            each.tell("begin_term", "one of many")
    taken = [[each.answer() for _ in range(5)] for each in many]
    assert sorted(n for numbers in taken for n in numbers) == list(range(1, 21))
    assert all(numbers == sorted(numbers) for numbers in taken)
    current = [each.do("is_current") for each in many]
    assert current == [numbers[-1] == 20 for numbers in taken]


def test_a_leader_whose_term_cannot_be_looked_up_does_not_know(ledger, path):
    ledger.begin_term("a")
    for each in path.parent.glob("ledger.db*"):
        each.rename(each.with_name(f"away-{each.name}"))
    path.mkdir()
    ledger.close()
    with pytest.raises(Retryable):
        ledger.is_current()
