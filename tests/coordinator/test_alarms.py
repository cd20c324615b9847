"""Alarms ring in the order of their time, cancelled ones not at all, and these do not pile up."""

from coordinator.alarms import Alarms
from manta.clock import ManualClock


async def test_they_ring_in_the_order_of_their_time():
    clock, rung = ManualClock(), []
    alarms = Alarms(clock)
    for seconds in (30, 10, 20):
        alarms.after(seconds, lambda s=seconds: rung.append(s))
    await clock.advance(0)
    await clock.advance(15)
    assert rung == [10]
    await clock.advance(100)
    assert rung == [10, 20, 30]
    alarms.close()


async def test_an_earlier_alarm_wakes_the_sleeper_in_time():
    clock, rung = ManualClock(), []
    alarms = Alarms(clock)
    alarms.after(600, lambda: rung.append("late"))
    await clock.advance(0)
    alarms.after(5, lambda: rung.append("soon"))
    await clock.advance(0)
    await clock.advance(6)
    assert rung == ["soon"]
    alarms.close()


async def test_a_cancelled_one_never_rings():
    clock, rung = ManualClock(), []
    alarms = Alarms(clock)
    alarm = alarms.after(5, lambda: rung.append("no"))
    alarm.cancel()
    alarm.cancel()
    await clock.advance(0)
    await clock.advance(10)
    assert rung == []
    alarms.close()


async def test_an_alarm_may_set_another():
    clock, rung = ManualClock(), []
    alarms = Alarms(clock)
    alarms.after(5, lambda: alarms.after(5, lambda: rung.append("second")))
    await clock.advance(0)
    await clock.advance(6)
    await clock.advance(6)
    assert rung == ["second"]
    alarms.close()


async def test_cancelled_alarms_do_not_pile_up():
    alarms = Alarms(ManualClock())
    keep = alarms.after(1, lambda: None)
    for _ in range(50_000):
        alarms.after(600, lambda: None).cancel()
    assert len(alarms._heap) < 5_000
    assert keep.call is not None
    alarms.close()
