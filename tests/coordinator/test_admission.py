"""Which queued run goes to work next: fairness, limits, threads; against a naive model of the same rules."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.admission import Admission
from coordinator.store.records import RunBrief
from manta.config import LimitSettings
from manta.ids import RunId, Tenant, ThreadId


def brief(
    number: int, tenant: str = "t", graph: str = "g", priority: int = 0, thread: str | None = None, most=None
) -> RunBrief:
    own = ThreadId(thread) if thread else None
    return RunBrief(RunId(f"r{number}"), number, Tenant(tenant), graph, "pending", priority, own, most)


def admitted(admission: Admission) -> list[str]:
    return [b.id for b in admission.admit()]


def filled(limits: LimitSettings, *briefs: RunBrief) -> Admission:
    admission = Admission(limits)
    for one in briefs:
        admission.offer(one)
    return admission


def test_the_oldest_goes_first_within_the_limit():
    admission = filled(LimitSettings(active_runs=2), brief(1), brief(2), brief(3))
    assert admitted(admission) == ["r1", "r2"]
    admission.ended(RunId("r2"))
    assert admitted(admission) == ["r3"]


def test_a_lower_priority_goes_before_age():
    admission = filled(LimitSettings(active_runs=1), brief(1), brief(2, priority=-5))
    assert admitted(admission) == ["r2"]


def test_a_tenant_with_many_runs_does_not_hold_up_another():
    crowd = [brief(n, "big") for n in range(1, 50)]
    admission = filled(LimitSettings(active_runs=4), *crowd, brief(100, "small"), brief(101, "small"))
    assert Counter(b.tenant for b in admission.admit()) == {"big": 2, "small": 2}


def test_a_tenants_own_limit_leaves_the_rest_to_others():
    limits = LimitSettings(active_runs=10, active_runs_per_tenant=1)
    admission = filled(limits, brief(1, "a"), brief(2, "a"), brief(3, "b"))
    assert sorted(admitted(admission)) == ["r1", "r3"]


def test_runs_of_one_thread_go_one_after_the_other_and_others_pass_them():
    admission = filled(LimitSettings(), brief(1, thread="x"), brief(2, thread="x"), brief(3))
    assert admitted(admission) == ["r1", "r3"]
    admission.ended(RunId("r1"))
    assert admitted(admission) == ["r2"]


def test_a_run_that_rests_keeps_its_thread_but_no_place():
    admission = filled(LimitSettings(active_runs=1), brief(1, thread="x"), brief(2, thread="x"), brief(3))
    assert admitted(admission) == ["r1"]
    admission.ended(RunId("r1"), keep_thread=True)
    assert admitted(admission) == ["r3"]
    admission.ended(RunId("r3"))
    assert admitted(admission) == []
    admission.offer(brief(1, thread="x"))
    assert admitted(admission) == ["r1"]
    admission.ended(RunId("r1"))
    assert admitted(admission) == ["r2"]


def test_a_graphs_limit_counts_for_each_tenant():
    runs = [brief(1, "a", most=1), brief(2, "a", most=1), brief(3, "b", most=1), brief(4, "a", "other")]
    admission = filled(LimitSettings(), *runs)
    assert sorted(admitted(admission)) == ["r1", "r3", "r4"]


def test_a_place_for_a_graph_is_not_lost_to_a_run_whose_thread_is_busy():
    runs = [
        brief(1, most=1, thread="x"),
        brief(2, most=1, thread="y"),
        brief(3, most=1),
        brief(4, thread="y"),
    ]
    admission = filled(LimitSettings(), runs[3], runs[0])
    assert sorted(admitted(admission)) == ["r1", "r4"]
    admission.offer(runs[1])
    admission.offer(runs[2])
    assert admitted(admission) == []
    admission.ended(RunId("r1"))
    assert admitted(admission) == ["r3"]


def test_a_new_run_is_let_in_at_once_only_if_nobody_is_before_it():
    admission = Admission(LimitSettings(active_runs=1, queued_runs=1))
    assert admission.admit_now(brief(1))
    assert not admission.admit_now(brief(2))
    assert not admission.overloaded
    admission.offer(brief(2))
    assert admission.overloaded
    admission.ended(RunId("r1"))
    assert not admission.admit_now(brief(3))
    assert admitted(admission) == ["r2"]


def test_a_withdrawn_run_is_not_admitted():
    admission = filled(LimitSettings(active_runs=1), brief(1), brief(2))
    admission.withdraw(RunId("r1"))
    assert admitted(admission) == ["r2"]
    assert admission.queued == 0


briefs = st.builds(
    brief,
    st.integers(1, 10_000),
    st.sampled_from("ab"),
    st.sampled_from("gh"),
    st.integers(-1, 1),
    st.sampled_from([None, "x", "y"]),
    st.sampled_from([None, 1, 2]),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(briefs, st.integers(0, 20)), max_size=60),
    st.integers(1, 4),
    st.sampled_from([None, 1, 2]),
)
def test_limits_hold_and_nobody_is_forgotten(script, active_runs, per_tenant):
    """Offers and ends in any order: no limit is ever passed, and in the end everyone has been at work."""
    limits = LimitSettings(active_runs=active_runs, active_runs_per_tenant=per_tenant)
    admission = Admission(limits)
    known: dict[str, RunBrief] = {}
    active: dict[str, RunBrief] = {}
    seen: set[str] = set()

    def look() -> None:
        for one in admission.admit():
            assert one.id not in seen
            seen.add(one.id)
            active[one.id] = one
        assert len(active) <= active_runs
        if per_tenant:
            assert max(Counter(b.tenant for b in active.values()).values(), default=0) <= per_tenant
        threads = Counter((b.tenant, b.thread) for b in active.values() if b.thread)
        assert max(threads.values(), default=0) <= 1
        for one in active.values():
            if one.max_active is not None:
                same = [
                    b
                    for b in active.values()
                    if b.max_active is not None and (b.tenant, b.graph_name) == (one.tenant, one.graph_name)
                ]
                assert len(same) <= max(b.max_active or 0 for b in same)

    def end(run: str) -> None:
        del active[run]
        admission.ended(RunId(run))

    for event in script:
        if isinstance(event, int):
            if active:
                end(sorted(active)[event % len(active)])
        elif event.id not in known:
            known[event.id] = event
            admission.offer(event)
        look()
    while active:
        end(next(iter(active)))
        look()
    assert seen == set(known)
    assert admission.queued == admission.active == 0
