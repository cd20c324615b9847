"""Budgets of seconds: steps beside each other use them together."""

from coordinator.keys import covers, index_of, step_of
from coordinator.work_time import WorkTime
from manta.ids import StepKey
from manta.messages import Budget, Limit

RUN = (Limit(StepKey(""), Budget(seconds=10)),)


def key(text: str) -> StepKey:
    return StepKey(text)


def test_two_at_once_use_it_up_twice_as_fast():
    time = WorkTime()
    time.begin(key("a"), RUN, 0)
    assert time.next_end() == 10
    time.begin(key("b"), RUN, 4)
    assert time.next_end() == 7
    assert [step for step, _ in time.overdrawn(7)] == ["a", "b"]


def test_who_ends_uses_no_more():
    time = WorkTime()
    time.begin(key("a"), RUN, 0)
    time.end(key("a"), 6)
    assert time.next_end() is None
    time.begin(key("b"), RUN, 100)
    assert time.next_end() == 104
    assert list(time.overdrawn(103)) == []


def test_what_was_used_before_counts_where_the_limit_covers_it():
    limits = (Limit(key("sub"), Budget(seconds=5)),)
    time = WorkTime()
    time.used_before(key("sub/x"), 2)
    time.used_before(key("subway"), 100)
    time.begin(key("sub/y"), limits, 0)
    assert time.next_end() == 3


def test_limits_without_seconds_are_none_of_its_business():
    time = WorkTime()
    time.begin(key("a"), (Limit(key(""), Budget(tokens=5)),), 0)
    assert time.next_end() is None


def test_keys():
    assert [step_of(key(k)) for k in ("a", "a[3]", "a#2", "x[1]/b[10]#3")] == ["a", "a", "a", "b"]
    assert [index_of(key(k)) for k in ("a", "a[3]", "x[1]/b", "x[1]/b[10]#3")] == [None, 3, None, 10]
    covered = ["sub", "sub[1]", "sub#2", "sub/a", "sub[1]#2/a/b"]
    assert all(covers(key("sub"), key(k)) for k in covered)
    assert not any(covers(key("sub"), key(k)) for k in ("subway", "other", "other/sub", "su"))
    assert covers(key(""), key("anything"))
