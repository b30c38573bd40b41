"""timer.c: deadlines by the hundred thousand."""

import random
import socket
import time

import hypothesis
import pytest
from helpers import pass_time, settle
from hypothesis import strategies as st

from evergreen import _evergreen_c as core
from evergreen import sleep, spawn
from evergreen.event import Event


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


def median_time(call, times=51):
    taken = []
    for _ in range(times):
        before = time.monotonic()
        call()
        taken.append(time.monotonic() - before)
    return sorted(taken)[times // 2]


def outer_set(hub):
    """Have the set of descriptors hold libuv's: nearly all that happens, happens in there."""
    a, b = socket.socketpair()
    for _ in range(200):
        reader = spawn(core.wait_fd, a, 1)
        settle()
        b.send(b"x")
        reader.join()
        a.recv(1)
    return a, b


@pytest.mark.parametrize("outer", [False, True])
def test_a_wait_of_less_than_a_millisecond_does_not_take_one_more(hub, outer):
    pair = outer_set(hub) if outer else ()
    waiting = spawn(core.wait_fd, pair[0], 1) if outer else spawn(sleep, 60)
    unready, other = socket.socketpair()
    waits = {
        "sleep": lambda: sleep(0.0001),
        "event": lambda: Event().wait(0.0001),
        "descriptor": lambda: core.wait_fd(unready, 1, 0.0001),
    }
    for name, wait in waits.items():
        took = median_time(wait)
        assert 0.0001 <= took < 0.0009, name
    waiting.kill()
    for end in (*pair, unready, other):
        end.close()


@pytest.mark.parametrize("seconds", [0.00002, 0.0003, 0.00099, 0.0021, 0.0041])
def test_no_wait_ends_early(hub, seconds):
    for _ in range(30):
        before = time.monotonic()
        sleep(seconds)
        assert time.monotonic() - before >= seconds
