"""patch_thread.c: threads are tasks where an event loop runs, and native where none does."""

import _thread
import contextvars
import gc
import sys
import threading
import time
import weakref

import pytest
from helpers import native, native_sleep, output_of, run_python, settle

import evergreen
from evergreen import Deadlock, EventLoop, patcher, sleep, spawn


@pytest.fixture
def patched(hub):
    with patcher.patched(thread=True):
        yield hub


def refusal(function, /, *args, **kwargs):
    with pytest.raises(Exception) as caught:
        function(*args, **kwargs)
    return caught.type, str(caught.value)


def run_thread(function, *args, **kwargs):
    """A Thread that has run function(*args)."""
    thread = threading.Thread(target=function, args=args, **kwargs)
    thread.start()
    thread.join()
    return thread


@pytest.fixture
def reported(monkeypatch):
    """What threading.excepthook is given."""
    calls = []
    monkeypatch.setattr(threading, "excepthook", lambda args: calls.append(args))
    return calls


@pytest.fixture
def default_hook(monkeypatch, capfd):
    """Without the excepthook of the test runner; returns what reads stdout and stderr."""
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    return capfd.readouterr


# ---- starting -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["start_new_thread", "start_new"])
def test_a_thread_is_a_task_of_the_loop_that_starts_it(patched, name):
    found, main = [], evergreen.current.task

    def note(*args, **kwargs):
        found.append((evergreen.current.task, args, kwargs))

    ident = getattr(_thread, name)(note, (1,), {"b": 2})
    assert not found
    settle()
    (task, args, kwargs) = found[0]
    assert (args, kwargs) == ((1,), {"b": 2})
    assert task is not main
    assert task.loop is patched
    assert isinstance(ident, int)


def test_a_thread_that_is_started_returns_the_ident_that_it_has(patched):
    found = []
    ident = _thread.start_new_thread(lambda: found.append(_thread.get_ident()), ())
    settle()
    assert found == [ident]


@pytest.mark.parametrize("args", [(), (1, ()), (print,), (print, []), (print, (), 1), (print, (), {}, 1)])
def test_what_start_new_thread_refuses_is_refused_in_its_own_words(hub, args):
    natively = refusal(_thread.start_new_thread, *args)
    with patcher.patched(thread=True):
        assert refusal(_thread.start_new_thread, *args) == natively


def test_a_thread_has_started_when_start_returns(patched):
    started, gate = [], threading.Event()
    thread = threading.Thread(target=lambda: (started.append(1), gate.wait()))
    assert not thread.is_alive()
    thread.start()
    assert thread.is_alive()
    assert thread.ident is not None
    gate.set()
    thread.join()
    assert started
    assert not thread.is_alive()


def test_a_thread_starts_only_once(patched):
    thread = run_thread(int)
    assert refusal(thread.start) == (RuntimeError, "threads can only be started once")


def test_threads_start_threads(patched):
    depths = []

    def nest(depth):
        depths.append(depth)
        if depth:
            run_thread(nest, depth - 1)

    run_thread(nest, 5)
    assert depths == [5, 4, 3, 2, 1, 0]


def test_a_thousand_threads_may_wait_at_once(patched):
    gate, out = threading.Event(), []
    threads = [threading.Thread(target=lambda n=n: (gate.wait(), out.append(n))) for n in range(1000)]
    for thread in threads:
        thread.start()
    assert patched.stats()["tasks"] == 1000
    gate.set()
    for thread in threads:
        thread.join()
    assert sorted(out) == list(range(1000))


def test_the_count_of_threads_counts_tasks(patched):
    before, gate = _thread._count(), threading.Event()
    threads = [threading.Thread(target=gate.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert _thread._count() == before + 3
    gate.set()
    for thread in threads:
        thread.join()
    settle()
    assert _thread._count() == before


def test_the_count_of_threads_leaves_out_those_of_the_pool():
    out = output_of(
        """
        import _thread
        from evergreen import offload, patcher, _evergreen_c as core
        patcher.patch()
        native_count = core.patch_native("_thread", "_count")
        before = _thread._count()
        in_pool = offload(_thread._count)
        print(before, in_pool, _thread._count(), native_count())
        """
    )
    assert out.split() == ["0", "0", "0", "1"]  # it stays there, idle


def test_a_native_thread_without_a_loop_starts_native_threads(patched):
    def other():
        found = []
        thread = threading.Thread(target=lambda: found.append(threading.get_native_id()))
        thread.start()
        thread.join()
        return threading.get_native_id(), found[0]

    assert len({threading.get_native_id(), *native(other).get()}) == 3


def test_a_killed_join_of_a_native_thread_leaves_it_to_others(hub):
    free = threading.Lock()
    free.acquire()
    thread = threading.Thread(target=free.acquire)
    thread.start()
    with patcher.patched(thread=True):
        tasks = [spawn(thread.join) for _ in range(2)]
        settle()
        assert tasks[0].is_alive()
        tasks[0].kill()
        tasks[0].join()
        late = spawn(thread.join, 0.001)
        assert late.result(10) is None
        assert thread.is_alive()
        free.release()
        tasks[1].result(10)
        assert not thread.is_alive()
        while hub.stats()["pins"]:  # the native wait of the one that was killed sees it in time
            sleep(0.001)


def test_the_process_waits_for_a_native_thread_while_tasks_run():
    out = output_of(
        """
        import threading
        from evergreen import patcher, sleep, spawn
        native_lock = patcher.original("threading").Lock()
        native_lock.acquire()
        threading.Thread(target=lambda: (native_lock.acquire(), print("native"))).start()
        patcher.patch()
        threading.Thread(target=lambda: (sleep(0.01), native_lock.release())).start()
        sleep(0)
        print("main")
        """
    )
    assert out == "main\nnative\n"


def test_what_goes_to_native_threads_still_can_at_exit():
    out = output_of(
        """
        import atexit, os, socket
        from evergreen import patcher, sleep
        patcher.patch()
        sleep(0)

        @atexit.register
        def end():
            print(bool(socket.getaddrinfo("localhost", 80)), os.system("exit 0"))
        """
    )
    assert out == "True 0\n"


def test_the_first_thread_of_the_main_thread_brings_its_loop():
    out = output_of(
        """
        import threading
        from evergreen import patcher, _evergreen_c as core
        patcher.patch()
        assert core.loop_here() is None
        ids = []
        thread = threading.Thread(target=lambda: ids.append(threading.get_native_id()))
        thread.start()
        thread.join()
        print(ids == [threading.get_native_id()], core.loop_here() is not None)
        """
    )
    assert out == "True True\n"


def test_context_variables_are_as_those_of_a_thread(hub):
    variable = contextvars.ContextVar("variable", default="default")
    token = variable.set("outer")

    def look():
        found.append(variable.get())
        variable.set("inner")

    found = []
    _thread.start_new_thread(look, ())
    while not found:
        native_sleep(0.001)
    with patcher.patched(thread=True):
        _thread.start_new_thread(look, ())
        settle()
    assert found[1] == found[0]
    assert variable.get() == "outer"
    variable.reset(token)


# ---- joining --------------------------------------------------------------------------------


def test_join_waits_for_the_end_while_others_run(patched):
    order = []
    thread = threading.Thread(target=lambda: (sleep(0), sleep(0), order.append("thread")))
    thread.start()
    task = spawn(order.append, "task")
    thread.join()
    assert order == ["task", "thread"]
    task.join()


def test_join_with_a_timeout_gives_up(patched):
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    before = time.monotonic()
    thread.join(0.003)
    assert time.monotonic() - before >= 0.003
    assert thread.is_alive()
    thread.join(0)
    thread.join(-1)
    assert thread.is_alive()
    gate.set()
    thread.join(30)
    assert not thread.is_alive()


def test_many_may_join_a_thread_also_when_it_has_ended(patched):
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    tasks = [spawn(thread.join) for _ in range(5)]
    settle()
    assert all(task.is_alive() for task in tasks)
    gate.set()
    for task in tasks:
        task.result()
    thread.join()


def test_a_killed_join_leaves_the_thread_alone(patched):
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    task = spawn(thread.join)
    settle()
    task.kill()
    task.join()
    assert thread.is_alive()
    gate.set()
    thread.join()


def test_a_thread_cannot_join_itself(patched):
    found = []
    run_thread(lambda: found.append(refusal(threading.current_thread().join)))
    assert found == [(RuntimeError, "cannot join current thread")]


def test_a_native_thread_joins_a_thread_that_is_a_task(patched):
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    call = native(thread.join)
    sleep(0.002)
    gate.set()
    call.get()
    assert not thread.is_alive()


def test_a_task_joins_a_native_thread_that_was_there_before_the_patch(hub):
    gate = patcher.original("threading").Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    with patcher.patched(thread=True):
        ran = []
        task = spawn(lambda: (thread.join(0.002), ran.append(thread.is_alive())))
        other = spawn(lambda: (sleep(0), ran.append("other")))
        task.result()
        other.join()
        assert ran == ["other", True]
        task = spawn(thread.join)
        settle()
        assert task.is_alive()
        gate.set()
        task.result()
        assert not thread.is_alive()


def test_a_task_joins_a_native_thread_that_was_started_under_the_patch(patched):
    threads = patcher.original("threading")
    found, gate = [], threads.Event()
    thread = threads.Thread(target=lambda: (gate.wait(), found.append(threads.get_native_id())))
    thread.start()
    gate.set()
    spawn(thread.join).result()
    assert not thread.is_alive()
    assert found != [threading.get_native_id()]


def test_a_native_thread_with_threads_of_its_own_is_joined(patched):
    def start_and_join():
        thread = threading.Thread(target=native_sleep, args=(0.001,))
        thread.start()
        thread.join()
        return thread

    thread = native(start_and_join).get()
    spawn(thread.join).result()
    assert not thread.is_alive()


def test_waiting_for_a_thread_that_waits_for_ever_is_a_deadlock(patched):
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    with pytest.raises(Deadlock):
        thread.join()
    gate.set()
    thread.join()


@pytest.mark.skipif(not hasattr(_thread, "set_name"), reason="new in Python 3.14")
def test_the_name_of_a_thread_that_is_a_task_is_not_that_of_the_native_one(patched):
    with open("/proc/self/comm") as comm:
        before = comm.read()
        thread = threading.Thread(target=sleep, args=(0,), name="a task")
        thread.start()
        thread.join()
        comm.seek(0)
        assert comm.read() == before
        with pytest.raises(TypeError):
            _thread.set_name(1)


@pytest.mark.skipif(not hasattr(_thread, "start_joinable_thread"), reason="new in Python 3.13")
class TestHandles:
    def test_a_joinable_thread_gives_a_handle(self, patched):
        gate = threading.Event()
        handle = _thread.start_joinable_thread(gate.wait)
        assert not handle.is_done()
        handle.join(0.001)
        assert not handle.is_done()
        gate.set()
        handle.join()
        assert handle.is_done()

    def test_a_handle_serves_one_thread(self, patched):
        handle = _thread._ThreadHandle()
        _thread.start_joinable_thread(lambda: None, handle=handle)
        with pytest.raises(RuntimeError, match="thread already started"):
            _thread.start_joinable_thread(lambda: None, handle=handle)
        handle.join()

    def test_a_handle_of_nothing_is_refused_as_by_the_original(self, hub):
        natively = refusal(_thread._ThreadHandle().join)
        with patcher.patched(thread=True):
            assert refusal(_thread._ThreadHandle().join) == natively

    def test_a_thread_cannot_join_its_own_handle(self, patched):
        found, handles = [], []

        def join():
            found.append(refusal(handles[0].join))

        handles.append(_thread.start_joinable_thread(join))
        handles[0].join()
        assert found == [(RuntimeError, "Cannot join current thread")]

    def test_the_task_goes_with_its_handle(self, patched):
        found = []
        handle = _thread.start_joinable_thread(lambda: found.append(weakref.ref(evergreen.current.task)))
        handle.join()
        settle()
        assert found[0]() is not None
        del handle
        gc.collect()
        assert found[0]() is None

    @pytest.mark.parametrize("kwargs", [{"function": 1}, {"handle": 1}, {"unknown": 1}, {}])
    def test_what_the_original_refuses_is_refused_in_its_own_words(self, hub, kwargs):
        arguments = {"function": print, **kwargs} if kwargs else {}
        natively = refusal(_thread.start_joinable_thread, **arguments)
        with patcher.patched(thread=True):
            assert refusal(_thread.start_joinable_thread, **arguments) == natively


# ---- who runs -------------------------------------------------------------------------------


def test_every_task_has_an_ident_and_a_thread_object_of_its_own(patched):
    gate, found = threading.Event(), {}

    def look(name):
        found[name] = (threading.get_ident(), threading.current_thread())
        gate.wait()
        assert found[name] == (threading.get_ident(), threading.current_thread())

    threads = [threading.Thread(target=look, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    idents = {ident for ident, _ in found.values()} | {threading.get_ident()}
    assert len(idents) == 4
    assert [found[name][1] for name in "abc"] == threads
    assert [thread.ident for thread in threads] == [found[name][0] for name in "abc"]
    assert set(threads) < set(threading.enumerate())
    assert threading.current_thread() is threading.main_thread()
    gate.set()
    for thread in threads:
        thread.join()
    assert not set(threads) & set(threading.enumerate())


def test_a_plain_task_gets_a_stand_in_that_goes_with_it(patched):
    before = set(threading._active)
    name = spawn(lambda: threading.current_thread().name).result()
    assert name.startswith("Dummy")
    settle()
    assert set(threading._active) == before


def test_threads_that_end_leave_nothing_behind(patched):
    def look():
        threading.current_thread()
        threading.local().value = 1

    run_thread(look)
    before = (len(threading._active), len(threading._dangling), patched.stats()["tasks"])
    for _ in range(50):
        run_thread(look)
    settle()
    gc.collect()
    assert (len(threading._active), len(threading._dangling), patched.stats()["tasks"]) == before


def test_the_main_task_keeps_the_ident_of_its_thread(hub):
    ident = threading.get_ident()
    with patcher.patched(thread=True):
        assert threading.get_ident() == ident == threading.main_thread().ident
    assert spawn(threading.get_ident).result() == ident


# ---- thread-local data ----------------------------------------------------------------------


def test_thread_local_data_belongs_to_a_task(patched):
    local, found = threading.local(), []
    local.value = "main"

    def work(name):
        found.append(hasattr(local, "value"))
        local.value = name
        sleep(0)
        sleep(0)
        found.append(local.value)

    tasks = [spawn(work, name) for name in "abc"]
    for task in tasks:
        task.result()
    assert found == [False] * 3 + ["a", "b", "c"]
    assert local.value == "main"


def test_thread_local_data_from_before_the_patch_stays_with_main(hub):
    local = threading.local()
    local.value = 1
    with patcher.patched(thread=True):
        assert local.value == 1
        assert spawn(hasattr, local, "value").result() is False
        local.value = 2
    assert local.value == 2
    assert spawn(hasattr, local, "value").result() is True


def test_a_subclass_of_local_is_initialised_in_each_task(patched):
    class Mine(threading.local):
        def __init__(self):
            made.append(evergreen.current.task)

    made = []
    mine = Mine()
    tasks = [spawn(getattr, mine, "__dict__") for _ in range(3)]
    for task in tasks:
        task.result()
    assert made == [evergreen.current.task, *tasks]


def test_thread_local_data_dies_with_its_task(patched):
    class Value:
        pass

    local, refs = threading.local(), []

    def work():
        local.value = Value()
        refs.append(weakref.ref(local.value))

    spawn(work).join()
    run_thread(work)
    settle()
    assert [ref() for ref in refs] == [None, None]


def test_thread_local_data_of_a_killed_task_dies_too(patched):
    class Value:
        pass

    local, refs = threading.local(), []

    def work():
        local.value = Value()
        refs.append(weakref.ref(local.value))
        sleep(30)

    task = spawn(work)
    settle()
    task.kill()
    task.join()
    settle()
    assert refs[0]() is None


def test_a_local_may_die_while_tasks_have_data_in_it(patched):
    class Value:
        pass

    local, refs, gate = threading.local(), [], threading.Event()

    def work(local):
        local.value = Value()
        refs.append(weakref.ref(local.value))
        del local
        gate.wait()

    task = spawn(work, local)
    settle()
    del local, task
    gc.collect()
    gate.set()
    settle()
    gc.collect()
    assert refs[0]() is None


def test_a_callback_sees_the_data_of_no_task(patched):
    local, found = threading.local(), []
    local.value = "main"

    def work():
        local.value = "task"
        patched.call_soon(lambda: found.append(getattr(local, "value", None)))
        sleep(0)
        found.append(local.value)

    spawn(work).join()
    assert found == [None, "task"]


def test_the_patch_may_begin_and_end_in_a_task(hub):
    local = threading.local()
    local.value = "main"

    def work():
        with patcher.patched(thread=True):
            before = hasattr(local, "value")
            local.value = "task"
            sleep(0)
            return before, local.value

    assert spawn(work).result() == (False, "task")
    assert local.value == "main"


# ---- frames and clocks ------------------------------------------------------------------------


def test_sys_current_frames_has_a_frame_for_each_task_that_is_a_thread(patched):
    def names(frame):
        return frame and [frame.f_code.co_name, *names(frame.f_back)] if frame else []

    def waits():
        gate.wait()

    def looks():
        found.update(sys._current_frames())

    gate, found = threading.Event(), {}
    threads = [threading.Thread(target=waits) for _ in range(2)]
    for thread in threads:
        thread.start()
    settle()
    looker = run_thread(looks)
    assert all("waits" in names(found[thread.ident]) for thread in threads)
    assert names(found[looker.ident])[0] == "looks"
    assert "run_thread" in names(found[threading.get_ident()])
    gate.set()
    for thread in threads:
        thread.join()
    assert not {thread.ident for thread in threads} & set(sys._current_frames())


def test_the_clock_of_a_task_is_that_of_its_native_thread(patched):
    found = []
    run_thread(lambda: found.append(time.clock_gettime(time.pthread_getcpuclockid(threading.get_ident()))))
    assert 0 < found[0] <= time.thread_time()


# ---- what ends a thread ---------------------------------------------------------------------


def test_an_exception_goes_to_the_excepthook_of_threads(patched, reported):
    thread = run_thread(int, "x")
    assert [(args.exc_type, args.thread) for args in reported] == [(ValueError, thread)]


def test_an_exception_of_a_bare_thread_is_unraisable(hub, monkeypatch):
    def fail():
        raise ValueError("there")

    def caught():
        calls = []
        monkeypatch.setattr(sys, "unraisablehook", calls.append)
        _thread.start_new_thread(fail, ())
        while not calls:
            native_sleep(0.001)
            sleep(0)
        return [(call.exc_type, call.err_msg, call.object) for call in calls]

    natively = caught()
    with patcher.patched(thread=True):
        assert caught() == natively


@pytest.mark.parametrize("leave", [SystemExit, sys.exit, _thread.exit])
def test_system_exit_ends_a_thread_silently(patched, default_hook, leave):
    def work():
        if leave is SystemExit:
            raise SystemExit(3)
        leave()

    run_thread(work)
    _thread.start_new_thread(work, ())
    settle()
    assert default_hook() == ("", "")


def test_a_thread_that_is_killed_ends_silently(patched, default_hook):
    tasks = []
    thread = threading.Thread(target=lambda: (tasks.append(evergreen.current.task), sleep(30)))
    thread.start()
    tasks[0].kill()
    thread.join()
    assert default_hook() == ("", "")


def test_an_interrupt_of_a_thread_is_for_the_main_thread(patched, default_hook):
    def interrupt():
        raise KeyboardInterrupt

    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        thread.start()
        thread.join()
    thread.join()
    assert not thread.is_alive()
    assert default_hook() == ("", "")


def test_interrupt_main_in_a_thread_interrupts_main(patched, default_hook):
    thread = threading.Thread(target=_thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        thread.start()
        thread.join()
    thread.join()


# ---- the end of the process -----------------------------------------------------------------

PROGRAM = """
import threading, time
from evergreen import patcher
patcher.patch()

def work():
    time.sleep(0.01)
    print("worked", flush=True)

threading.Thread(target=work, daemon={daemon}).start()
print("main ends", flush=True)
"""


def test_the_process_waits_for_threads_that_are_no_daemons():
    assert output_of(PROGRAM.format(daemon=False)) == "main ends\nworked\n"


def test_the_process_does_not_wait_for_daemons():
    assert output_of(PROGRAM.format(daemon=True)) == "main ends\n"


def test_the_process_waits_for_threads_that_threads_start_at_its_end():
    out = output_of(
        """
        import threading, time
        from evergreen import patcher
        patcher.patch()

        def work(depth):
            time.sleep(0.002)
            print(depth, flush=True)
            if depth:
                threading.Thread(target=work, args=(depth - 1,)).start()

        threading.Thread(target=work, args=(2,)).start()
        """
    )
    assert out == "2\n1\n0\n"


def test_the_process_waits_for_native_threads_that_are_no_daemons():
    out = output_of(
        """
        import time
        from evergreen import patcher
        patcher.patch()
        native_sleep = patcher.original("time").sleep

        def work():
            native_sleep(0.05)
            print("worked", flush=True)

        patcher.original("threading").Thread(target=work).start()
        print("main ends", flush=True)
        """
    )
    assert out == "main ends\nworked\n"


def test_a_thread_that_fails_shows_its_traceback_and_the_process_goes_on():
    child = run_python(
        """
        import threading
        from evergreen import patcher
        patcher.patch()
        threading.Thread(target=int, args="x", name="worker").start()
        print("main")
        """
    )
    assert child.returncode == 0
    assert child.stdout == "main\n"
    assert "Exception in thread worker" in child.stderr
    assert "ValueError" in child.stderr


def test_a_thread_pool_is_shut_down_at_the_end_of_the_process():
    out = output_of(
        """
        import time
        from concurrent.futures import ThreadPoolExecutor
        from evergreen import patcher
        patcher.patch()
        pool = ThreadPoolExecutor(2)
        for n in range(4):
            pool.submit(lambda n=n: (time.sleep(0.002), print(n, flush=True)))
        """
    )
    assert sorted(out.split()) == ["0", "1", "2", "3"]


# ---- what stands on threads -----------------------------------------------------------------


def test_a_timer_fires_in_a_task_unless_it_is_cancelled(patched):
    fired = []
    timers = [threading.Timer(0.002, lambda n=n: fired.append((n, EventLoop.current()))) for n in range(2)]
    for timer in timers:
        timer.start()
    timers[1].cancel()
    for timer in timers:
        timer.join()
    assert fired == [(0, patched)]


def test_an_event_wakes_all_who_wait_and_times_out(patched):
    event = threading.Event()
    assert event.wait(0.002) is False
    tasks = [spawn(event.wait) for _ in range(3)]
    settle()
    event.set()
    assert [task.result() for task in tasks] == [True] * 3


def test_an_event_that_a_native_thread_sets_wakes_a_task(patched):
    event = threading.Event()
    call = native(lambda: (native_sleep(0.01), event.set()))
    assert event.wait() is True
    call.get()


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
def test_a_condition_notifies_its_waiters_in_order(patched, make):
    condition, order = threading.Condition(make()), []

    def wait(name):
        with condition:
            condition.wait()
            order.append(name)

    tasks = [spawn(wait, name) for name in "abcd"]
    settle()
    for count, expected in ((1, "a"), (2, "abc"), (1, "abcd")):
        with condition:
            condition.notify(count)
        settle()
        assert "".join(order) == expected
    for task in tasks:
        task.result()


def test_a_condition_keeps_the_depth_of_its_rlock(patched):
    condition = threading.Condition()

    def wait():
        with condition, condition:
            assert condition.wait(0.002) is False
            return condition._is_owned()

    assert spawn(wait).result() is True
    with condition:
        condition.notify_all()


def test_a_task_that_is_killed_in_a_condition_releases_it(patched):
    condition = threading.Condition()

    def wait():
        with condition:
            condition.wait()

    task = spawn(wait)
    settle()
    task.kill()
    task.join()
    with condition:
        condition.notify_all()
    assert spawn(condition.acquire, False).result() is True


def test_a_semaphore_bounds_how_many_are_inside(patched):
    semaphore, inside, most = threading.BoundedSemaphore(3), [], []

    def work():
        with semaphore:
            inside.append(1)
            most.append(len(inside))
            sleep(0)
            inside.pop()

    for task in [spawn(work) for _ in range(20)]:
        task.result()
    assert max(most) == 3
    with pytest.raises(ValueError):
        semaphore.release()


def test_a_barrier_lets_all_through_when_the_last_comes(patched):
    barrier = threading.Barrier(3)
    tasks = [spawn(barrier.wait) for _ in range(2)]
    settle()
    assert all(task.is_alive() for task in tasks)
    last = barrier.wait()
    assert sorted([last, *(task.result() for task in tasks)]) == [0, 1, 2]


def test_a_broken_barrier_tells_all_who_wait(patched):
    barrier = threading.Barrier(3)
    tasks = [spawn(barrier.wait) for _ in range(2)]
    settle()
    barrier.abort()
    for task in tasks:
        with pytest.raises(threading.BrokenBarrierError):
            task.result()
