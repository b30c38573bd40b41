"""timer.c: deadlines by the hundred thousand."""

import random

import hypothesis
from helpers import pass_time, settle
from hypothesis import strategies as st

from evergreen import sleep, spawn


def test_timers_fire_in_the_order_of_their_milliseconds_then_of_arrival(hub):
    fired = []
    base = hub.time() + 0.005
    delays = [random.Random(1).randrange(5) for _ in range(200)]
    for number, delay in enumerate(delays):
        hub.call_at(base + delay / 1000, fired.append, (delay, number))
    hub.run()
    assert fired == sorted((delay, number) for number, delay in enumerate(delays))


def test_timers_of_one_moment_fire_in_the_order_they_were_made(hub):
    fired = []
    moment = hub.time() + 0.003
    for number in range(1000):
        hub.call_at(moment, fired.append, number)
    hub.run()
    assert fired == list(range(1000))


def test_a_hundred_thousand_timers_fire_once_each(hub):
    fired = []
    rng = random.Random(2)
    for number in range(100_000):
        hub.call_later(0.001 + rng.random() * 0.05, fired.append, number)
    assert hub.stats()["timers"] == 100_000
    hub.run()
    assert sorted(fired) == list(range(100_000))


def test_cancelled_timers_are_forgotten(hub):
    fired = []
    timers = [hub.call_later(0.001 + number / 1_000_000, fired.append, number) for number in range(20_000)]
    for timer in timers[1:]:
        timer.cancel()
    assert hub.stats()["timers"] == 1
    hub.run()
    assert fired == [0]


def test_timers_that_are_made_and_cancelled_for_ever_take_no_memory(hub):
    for number in range(200_000):
        hub.call_later(1000 + number * 0.002, print).cancel()
    assert hub.stats()["timer_buckets"] < 3_000
    assert hub.get_timeout() is None


def test_a_timer_in_the_far_future_can_be_cancelled(hub):
    timers = [hub.call_later(delay, print) for delay in (8e9, 9e9, 1e300, 1e-300)]
    for timer in timers:
        timer.cancel()
    hub.run()


def test_a_timer_made_by_a_timer_fires_too(hub):
    fired = []
    hub.call_later(0.001, lambda: hub.call_later(0.001, fired.append, "second"))
    hub.run()
    assert fired == ["second"]


def test_ten_thousand_sleepers_wake_and_none_too_early(hub):
    early = []

    def nap(seconds):
        due = hub.time() + seconds
        sleep(seconds)
        if hub.time() < due:
            early.append(due - hub.time())

    rng = random.Random(3)
    tasks = [spawn(nap, rng.random() * 0.05) for _ in range(10_000)]
    for task in tasks:
        task.join()
    assert early == []


MOMENTS = st.integers(min_value=0, max_value=12)


@hypothesis.settings(
    max_examples=400, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    st.lists(
        st.one_of(
            st.tuples(st.just("arm"), MOMENTS),
            st.tuples(st.just("cancel"), st.integers(min_value=0, max_value=40)),
            st.tuples(st.just("pass"), st.just(0)),
        ),
        max_size=40,
    )
)
def test_a_timer_fires_once_and_in_order_unless_it_was_cancelled(hub, steps):
    base = hub.time()
    fired, timers, cancelled = [], [], set()
    for step, number in steps:
        if step == "arm":
            timers.append((hub.call_at(base + number / 4000, fired.append, len(timers)), number))
        elif step == "cancel" and number < len(timers):
            if number not in fired:
                cancelled.add(number)
            timers[number][0].cancel()
        elif step == "pass":
            pass_time(0.0006)
            settle()
    hub.run()
    assert sorted(fired) == [number for number in range(len(timers)) if number not in cancelled]
