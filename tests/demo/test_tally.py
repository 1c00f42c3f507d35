from collections import Counter

from controller.demo.tally import Tally, reconcile


def seen(**changes) -> Tally:
    tally = Tally(sent=100, answers=Counter(v1=90, v2=10), accepted=100)
    for name, value in changes.items():
        setattr(tally, name, value)
    return tally


def test_books_that_agree_lose_nothing():
    account = reconcile(seen(), exposures={"v1": 90, "v2": 10}, joined=97, rejected={"late": 3})
    assert account.lost == 0
    assert account.sentence() == "nothing is missing"


def test_a_missing_exposure_is_not_made_up_by_one_too_many_elsewhere():
    account = reconcile(seen(), exposures={"v1": 89, "v2": 11}, joined=100, rejected={})
    assert account.exposures == {"v1": 1, "v2": 1}
    assert account.lost == 2


def test_an_arm_that_the_controller_does_not_know_is_missing_whole():
    account = reconcile(seen(), exposures={"v1": 90}, joined=100, rejected={})
    assert account.sentence() == "10 exposures of v2 differ"


def test_a_reward_that_is_neither_joined_nor_rejected_is_lost():
    account = reconcile(seen(), exposures={"v1": 90, "v2": 10}, joined=95, rejected={"orphan": 1})
    assert account.unjoined == 4
    assert account.lost == 4


def test_unanswered_unusable_refused_and_unposted_count_as_lost():
    tally = seen(dropped=2, unusable=3, refused=4, due=5, owed=6)
    account = reconcile(tally, exposures={"v1": 90, "v2": 10}, joined=100, rejected={})
    assert (account.requests, account.unposted) == (5, 15)
    assert account.lost == 20
