"""handler.c: callbacks that can be cancelled."""

import gc
import os
import socket
import sys
import weakref

import pytest
from helpers import in_thread, run_python, settle

import evergreen
from evergreen import EventLoop, Handler, Timer, sleep


def test_handlers_and_timers_are_what_the_loop_returns(hub):
    handler, timer = hub.call_soon(int), hub.call_later(100, int)
    assert type(handler) is Handler
    assert type(timer) is Timer
    assert issubclass(Timer, Handler)
    timer.cancel()
    settle()


@pytest.mark.parametrize("kind", [Handler, Timer])
def test_handlers_cannot_be_made_otherwise(kind):
    with pytest.raises(TypeError):
        kind()
    with pytest.raises(TypeError):
        kind.__new__(kind)


def test_a_handler_cannot_be_the_callback_of_another(hub):
    handler = hub.call_later(100, int)
    for call in (hub.call_soon, lambda callback: hub.call_later(1, callback)):
        with pytest.raises(AssertionError):
            call(handler)
    handler.cancel()


@pytest.fixture
def watcher(hub):
    """Return a function that makes a Watcher: a callback that can be scheduled again and again."""
    here, there = socket.socketpair()

    def watch(callback, *args, **kwargs):
        return hub.add_reader(here, callback, *args, **kwargs)

    yield watch
    hub.remove_reader(here)
    here.close()
    there.close()


def test_schedule_runs_the_callback_once_more(watcher):
    seen = []
    handler = watcher(seen.append, 1)
    assert isinstance(handler, Handler)
    for _ in range(2):
        handler.schedule()
        handler.schedule()  # it is due already
        settle()
    assert seen == [1, 1]


def test_schedule_works_from_another_thread(watcher):
    seen = []
    handler = watcher(seen.append, 1)
    in_thread(handler.schedule)
    settle()
    assert seen == [1]


def test_a_cancelled_handler_is_not_scheduled(watcher):
    seen = []
    handler = watcher(seen.append, 1)
    handler.cancel()
    handler.schedule()
    settle()
    assert seen == []


def test_a_callback_may_schedule_itself(watcher):
    seen = []

    def callback():
        seen.append(1)
        if len(seen) < 5:
            handler.schedule()

    handler = watcher(callback)
    handler.schedule()
    settle()
    assert len(seen) == 5


def test_a_watcher_in_a_cycle_is_collected(hub, watcher):
    class Callback:
        def __call__(self):
            pass

    callback = Callback()
    ref = weakref.ref(callback)
    callback.handler = watcher(callback)
    del callback
    hub.destroy()
    gc.collect()
    assert ref() is None


def test_handlers_cannot_be_made_by_way_of_a_subclass(hub):
    class Mine(Handler):
        pass

    for make in (Mine, lambda: object.__new__(Mine), lambda: object.__new__(Handler)):
        with pytest.raises(TypeError):
            make()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_callbacks_get_any_number_of_arguments(hub, watcher, count):
    args, kwargs = tuple(range(count)), {f"key{number}": number for number in range(count)}
    seen = []

    def callback(*args, **kwargs):
        seen.append((args, kwargs))

    hub.call_soon(callback, *args, **kwargs)
    hub.call_later(0.001, callback, *args)
    hub.call_later(0.002, callback, **kwargs)
    watcher(callback, *args, **kwargs).schedule()
    settle()
    sleep(0.005)
    assert seen == [(args, kwargs), (args, kwargs), (args, {}), ((), kwargs)]


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("how", ["soon", "later", "watch"])
def test_a_callback_may_cancel_itself_and_keep_its_arguments(hub, watcher, how, count):
    class Thing:
        pass

    class Callback:
        def __init__(self):
            self.attribute = "still here"

        def __call__(self, *args, key):
            handlers[0].cancel()
            handlers.clear()
            gc.collect()
            seen.append((self.attribute, [type(arg) for arg in args], type(key)))

    seen, args = [], [Thing() for _ in range(count)]
    make = {"soon": hub.call_soon, "later": lambda *a, **k: hub.call_later(0.001, *a, **k), "watch": watcher}[
        how
    ]
    handlers = [make(Callback(), *args, key=Thing())]
    del args
    if how == "watch":
        handlers[0].schedule()
    sleep(0.005)
    assert seen == [("still here", [Thing] * count, Thing)]


def test_repr_says_what_it_calls(hub):
    handler, timer = hub.call_soon(int), hub.call_later(100, int)
    assert repr(handler) == "<Handler <class 'int'>>"
    assert repr(timer) == "<Timer <class 'int'>>"
    timer.cancel()
    assert repr(timer) == "<Timer cancelled>"
    settle()


def test_a_cancelled_timer_lets_go_of_its_callback(hub):
    class Callback:
        def __call__(self, *args, **kwargs):
            pass

    callback, argument, keyword = Callback(), Callback(), Callback()
    refs = [weakref.ref(thing) for thing in (callback, argument, keyword)]
    timer = hub.call_later(100, callback, argument, key=keyword)
    del callback, argument, keyword
    assert all(ref() is not None for ref in refs)
    timer.cancel()
    assert all(ref() is None for ref in refs)


def test_a_handler_that_ran_is_freed(hub):
    argument = type("Argument", (), {})()
    before = sys.getrefcount(argument)
    for _ in range(10):
        hub.call_soon(id, argument)
        hub.call_later(0.001, id, argument)
        hub.call_later(100, id, argument).cancel()
    hub.run()
    assert sys.getrefcount(argument) == before


def test_a_timer_from_another_thread_can_be_cancelled_there(hub):
    timer = hub.call_later(100, print)
    in_thread(timer.cancel)
    hub.run()


def test_a_finaliser_that_a_handler_frees_may_not_block(hub):
    seen = []

    class Last:
        def __del__(self):
            try:
                evergreen.sleep(0)
            except RuntimeError:
                seen.append(1)

    hub.call_soon(lambda last: None, Last())
    settle()
    assert seen == [1]


def test_callbacks_of_a_thread_that_has_gone_are_dropped(hub):
    loops = []

    def thread():
        loops.append(EventLoop())
        loops[0].destroy()

    in_thread(thread)
    with pytest.raises(RuntimeError):
        loops[0].call_from_thread(print)


def test_a_builtin_that_cancels_its_own_handler_keeps_its_arguments():
    """With freed memory overwritten, a use after that crashes."""
    child = run_python(
        """
        import evergreen
        loop = evergreen.current.loop

        class Key:
            def __init__(self, handlers):
                self.handlers = handlers
            def __call__(self, value):
                if self.handlers:
                    self.handlers.pop().cancel()
                return -value

        for call in (loop.call_soon, lambda *args, **kwargs: loop.call_later(0.001, *args, **kwargs)):
            handlers = []
            handlers.append(call(list.sort, list(range(10000)), key=Key(handlers)))
            evergreen.sleep(0.01)
            assert handlers == []
        print("well")
        """,
        env={**os.environ, "PYTHONMALLOC": "malloc_debug"},
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "well\n", "")


def test_what_outlives_its_loop_is_an_error_or_does_nothing(hub):
    read, write = os.pipe()
    hub.fileno()
    watcher = hub.add_reader(read, print)
    soon, timer = hub.call_soon(print), hub.call_later(10, print)
    hub.destroy()
    with pytest.raises(RuntimeError, match="destroyed"):
        watcher.schedule()
    for handler in watcher, soon, timer:
        handler.cancel()
    hub._pin(1)
    for call in hub.stats, hub.tasks, lambda: hub.remove_reader(read):
        call()
    os.close(read)
    os.close(write)
