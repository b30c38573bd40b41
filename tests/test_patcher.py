"""patcher.py: the standard library's functions change in place, and back."""

import _asyncio  # noqa: F401  # these are patched when they are imported: so that they are
import _multiprocessing  # noqa: F401
import _queue
import _socket
import _sqlite3  # noqa: F401
import _ssl  # noqa: F401
import _thread
import importlib
import inspect
import io
import os
import pickle
import queue
import select
import selectors
import socket
import sys
import threading
import time
import types
from threading import Lock, Thread
from time import sleep as early_sleep

import pytest
from helpers import in_thread, output_of, pass_time, settle

from evergreen import _evergreen_c as core
from evergreen import patcher, spawn
from evergreen.io import file

GROUPS = {
    "time": "time",
    "socket": "socket",
    "select": "select",
    "thread": "threading",
    "os": "os",
    "ssl": "ssl",
    "multiprocessing": "multiprocessing",
    "asyncio": "asyncio",
    "sqlite3": "sqlite3",
    "hashlib": "hashlib",
}


@pytest.fixture(autouse=True)
def nothing_patched(hub):
    """Each test begins, and ends, with nothing patched."""
    assert not applied()
    yield hub
    patcher.unpatch()


def applied():
    return {(owner, name) for group, owner, name, on in core.patch_list() if on and group in GROUPS}


def available(*groups):
    """What a group has in this version of Python."""
    return {
        (owner, name)
        for group, owner, name, _ in core.patch_list()
        if group in groups and core.patch_native(owner, name) is not None
    }


def lets_others_run(function, *args):
    """Whether another task runs before function(*args) returns."""
    ran = []
    task = spawn(ran.append, 1)
    function(*args)
    let = bool(ran)
    task.join()
    return let


# ---- which ----------------------------------------------------------------------------------


def test_patch_without_arguments_patches_everything():
    patcher.patch()
    assert applied() == available(*GROUPS)
    assert all(patcher.is_patched(module) for module in GROUPS.values())


@pytest.mark.parametrize("group", GROUPS)
def test_patch_with_a_name_patches_that_alone(group):
    patcher.patch(**{group: True})
    assert applied() == available(group)
    assert [name for name, module in GROUPS.items() if patcher.is_patched(module)] == [group]


@pytest.mark.parametrize("group", GROUPS)
def test_patch_with_a_false_name_patches_everything_else(group):
    patcher.patch(**{group: False})
    assert applied() == available(*GROUPS) - available(group)


@pytest.mark.parametrize(
    ("modules", "groups"),
    [
        ({"time": True, "select": True}, ["time", "select"]),
        ({"time": True, "select": False}, ["time"]),
        ({"time": False, "select": False}, [name for name in GROUPS if name not in ("time", "select")]),
        ({"all": True}, list(GROUPS)),
        ({"all": True, "time": False}, [name for name in GROUPS if name != "time"]),
        ({"all": False}, []),
        ({"all": False, "time": True}, ["time"]),
    ],
)
def test_names_may_be_combined(modules, groups):
    patcher.patch(**modules)
    assert applied() == available(*groups)


@pytest.mark.parametrize(
    ("modules", "groups"),
    [
        ({"files": True}, GROUPS),
        ({"files": True, "time": True}, ["time", "os"]),
        ({"files": True, "thread": False}, [name for name in GROUPS if name != "thread"]),
        ({"files": True, "all": False}, ["os"]),
        ({"files": True, "all": True}, GROUPS),
    ],
)
def test_regular_files_are_on_request_and_turn_nothing_off(modules, groups):
    patcher.patch()
    assert not patcher.is_patched("files")
    patcher.unpatch()
    patcher.patch(**modules)
    assert patcher.is_patched("files") and applied() == available(*groups)
    patcher.unpatch(files=True)
    assert not patcher.is_patched("files") and applied() == available(*groups)
    patcher.patch(**modules)
    patcher.unpatch()
    assert not patcher.is_patched("files") and not applied()


def test_unpatching_something_else_leaves_regular_files(nothing_patched):
    patcher.patch(files=True)
    patcher.unpatch(time=True)
    assert patcher.is_patched("files") and not patcher.is_patched("time")
    patcher.unpatch(files=False)
    assert patcher.is_patched("files") and not applied()
    patcher.unpatch()
    assert not patcher.is_patched("files")


@pytest.mark.parametrize("change", [patcher.patch, patcher.unpatch])
def test_an_unknown_name_is_a_type_error_and_changes_nothing(change):
    patcher.patch(time=True)
    with pytest.raises(TypeError, match="'sockets'"):
        change(sockets=True, time=False)
    assert applied() == available("time")


def test_patched_with_an_unknown_name_is_a_type_error_too():
    with pytest.raises(TypeError, match="'sockets'"):
        with patcher.patched(sockets=True):
            pass
    assert not applied()


def test_threads_is_another_name_of_thread():
    patcher.patch(threads=False)
    assert applied() == available(*GROUPS) - available("thread")
    patcher.unpatch()
    patcher.patch(threads=True)
    assert applied() == available("thread")
    patcher.unpatch(threads=True)
    assert not applied()


def test_functions_are_still_found_in_sets_and_dicts():
    functions = [
        time.sleep,
        _socket.getaddrinfo,
        threading.Lock().acquire,
        os.open,
        os.read,
        select.epoll().poll,
    ]
    known = {function: function.__name__ for function in functions}
    hashes = [hash(function) for function in functions]
    patcher.patch(files=True)
    assert [known[function] for function in functions] == list(known.values())
    assert [function.__hash__() for function in functions] == hashes
    assert {os.open, os.stat, os.unlink} <= os.supports_dir_fd
    later = {function: 1 for function in functions}
    patcher.unpatch()
    assert [hash(function) for function in functions] == hashes
    assert later.keys() == known.keys()


def test_patching_twice_is_harmless():
    patcher.patch()
    patcher.patch(time=True)
    assert applied() == available(*GROUPS)
    patcher.unpatch()
    assert not applied()
    patcher.unpatch()
    assert not applied()


@pytest.mark.parametrize("group", GROUPS)
def test_unpatch_takes_out_what_it_names(group):
    patcher.patch()
    patcher.unpatch(**{group: True})
    assert applied() == available(*GROUPS) - available(group)
    patcher.unpatch(**{group: False})
    assert not applied()


def test_patched_takes_out_only_what_it_put_in():
    patcher.patch(time=True)
    with patcher.patched(time=True, select=True):
        assert applied() == available("time", "select")
    assert applied() == available("time")


def test_patched_unpatches_when_its_block_fails():
    with pytest.raises(KeyError):
        with patcher.patched():
            raise KeyError
    assert not applied()


def test_patched_blocks_may_nest():
    with patcher.patched(time=True):
        with patcher.patched():
            assert applied() == available(*GROUPS)
        assert applied() == available("time")
    assert not applied()


def test_a_block_may_be_unpatched_before_its_end():
    with patcher.patched():
        patcher.unpatch()
        assert not applied()
    assert not applied()


# ---- is_patched -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "modules"),
    [
        ("time", [time, "time"]),
        ("socket", [socket, _socket, "socket"]),
        ("select", [select, "select"]),
        ("thread", [threading, _thread, queue, _queue, "thread"]),
    ],
)
def test_is_patched_takes_modules_and_names(group, modules):
    assert not any(patcher.is_patched(module) for module in modules)
    patcher.patch(**{group: True})
    assert all(patcher.is_patched(module) for module in modules)


def test_a_module_that_knows_no_patch_is_not_patched():
    patcher.patch()
    assert not patcher.is_patched("json")
    assert not patcher.is_patched(sys)


# ---- in place -------------------------------------------------------------------------------


def test_functions_that_were_imported_before_the_patch_cooperate():
    assert not lets_others_run(early_sleep, 0.001)
    patcher.patch()
    assert lets_others_run(early_sleep, 0.001)
    patcher.unpatch()
    assert not lets_others_run(early_sleep, 0.001)


def test_sockets_that_were_made_before_the_patch_cooperate():
    a, b = socket.socketpair()
    receive = a.recv
    with a, b:
        patcher.patch()
        tasks = [spawn(receive, 1), spawn(socket.socket.recv, a, 1)]
        settle()
        assert all(task.is_alive() for task in tasks)
        b.send(b"xy")
        assert sorted(task.result() for task in tasks) == [b"x", b"y"]


def test_locks_that_were_made_before_the_patch_cooperate():
    lock = Lock()
    lock.acquire()
    patcher.patch()
    task = spawn(lock.acquire)
    settle()
    assert task.is_alive()
    lock.release()
    assert task.result() is True


def test_threads_that_were_made_before_the_patch_become_tasks():
    found = []
    thread = Thread(target=lambda: found.append(threading.get_native_id()))
    patcher.patch()
    thread.start()
    thread.join()
    assert found == [threading.get_native_id()]


def test_no_object_changes_its_identity_or_type():
    def everything():
        return [
            time.sleep,
            socket.socket,
            socket.socket.recv,
            socket.socketpair,
            select.select,
            select.epoll,
            _thread.start_new_thread,
            _thread.LockType,
            _thread.RLock,
            threading.Lock,
            threading.local,
            type(threading.RLock()).acquire,
            _queue.SimpleQueue.get,
        ]

    before = everything()
    patcher.patch()
    during = everything()
    assert all(a is b for a, b in zip(before, during, strict=True))
    assert isinstance(threading.Lock(), _thread.LockType)
    assert repr(time.sleep) == "<built-in function sleep>"
    patcher.unpatch()
    assert all(a is b for a, b in zip(before, everything(), strict=True))


def test_a_call_site_that_ran_hot_follows_patch_and_unpatch():
    def nap():
        time.sleep(0)

    for on in (False, True, False, True, False):
        patcher.patch() if on else patcher.unpatch()
        for _ in range(100):
            nap()
        assert lets_others_run(nap) is on


def test_unpatched_locks_block_their_thread():
    with patcher.patched():
        pass
    lock = Lock()
    lock.acquire()
    ran = []
    task = spawn(ran.append, 1)
    assert lock.acquire(timeout=0.001) is False
    assert not ran
    task.join()


def test_unpatched_threads_are_native():
    with patcher.patched():
        pass
    assert in_thread(threading.get_native_id) != threading.get_native_id()


def test_a_task_may_patch_and_unpatch():
    def work():
        with patcher.patched():
            return lets_others_run(time.sleep, 0.001)

    assert spawn(work).result() is True
    assert not applied()


def test_native_threads_without_a_loop_keep_the_native_behaviour():
    def work():
        time.sleep(0.001)
        with Lock():
            return core.loop_here()

    thread_result = []
    thread = patcher.original("threading").Thread(target=lambda: thread_result.append(work()))
    with patcher.patched():
        thread.start()
        thread.join()
    assert thread_result == [None]


# ---- audit ----------------------------------------------------------------------------------


def states(group):
    return {finding.state for finding in patcher.audit() if finding.group == group}


def test_audit_says_what_is_patched():
    assert states("time") == {"native"}
    patcher.patch()
    found = {finding.name: finding.state for finding in patcher.audit()}
    assert found["time.sleep"] == found["posix.read"] == found["_ssl._SSLSocket.read"] == "patched"
    functions = {f"{owner}.{name}" for group, owner, name, _ in core.patch_list() if group in GROUPS}
    assert found["posix.stat"] == "native"  # regular files are on request
    assert "native" not in {found[name] for name in functions}  # threads of other tests may be


def test_audit_gives_a_reason_for_whatever_is_not_patched():
    for _ in range(2):
        assert all(bool(finding.why) is (finding.state != "patched") for finding in patcher.audit())
        patcher.patch()


def test_audit_says_what_somebody_has_replaced(monkeypatch):
    def sleep(seconds):
        pass

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.delattr(select, "epoll")
    assert {finding.name for finding in patcher.audit() if finding.state == "replaced"} == {
        "time.sleep",
        "select.epoll",
    }


def test_audit_says_which_threads_stay_native():
    release = threading.Event()
    thread = Thread(target=release.wait, name="old")
    thread.start()
    with patcher.patched():
        why = [finding.why for finding in patcher.audit() if finding.name == "thread 'old'"]
    release.set()
    thread.join()
    assert len(why) == 1


def test_audit_of_a_module_that_is_not_imported_yet():
    out = output_of(
        """
        from evergreen import patcher
        print({finding.state for finding in patcher.audit() if finding.group == "asyncio"})
        patcher.patch()
        print({finding.state for finding in patcher.audit() if finding.group == "asyncio"})
        import asyncio
        print({finding.state for finding in patcher.audit() if finding.group == "asyncio"})
        """
    )
    assert out == "{'native'}\n{'waiting'}\n{'patched'}\n"


# ---- original -------------------------------------------------------------------------------


def test_an_original_blocks_its_thread_whatever_is_patched():
    original = patcher.original("time")
    assert original is not time
    assert original.monotonic is time.monotonic
    with patcher.patched():
        assert not lets_others_run(original.sleep, 0.001)
        assert lets_others_run(time.sleep, 0.001)


@pytest.mark.parametrize(
    "name", ["time", "_socket", "select", "_thread", "_queue", "socket", "threading", "queue"]
)
def test_originals_are_made_once_and_not_entered_into_sys_modules(name):
    before = dict(sys.modules)
    assert patcher.original(name) is patcher.original(name)
    assert patcher.original(name).__name__ == name
    assert {key: module for key, module in sys.modules.items() if key in before} == before
    assert patcher.original(name) is not sys.modules[name]


@pytest.mark.parametrize("early", [False, True])
def test_an_original_may_be_asked_for_before_or_after_the_patch(early):
    code = """
        import sys, time
        import evergreen
        from evergreen import patcher
        if {early}:
            patcher.original("threading")
        patcher.patch()
        threads, ids = patcher.original("threading"), []
        thread = threads.Thread(target=lambda: ids.append(threads.get_native_id()))
        thread.start()
        evergreen.spawn(thread.join).join()
        print(ids != [threads.get_native_id()], thread.is_alive())
    """
    assert output_of(code.format(early=early)) == "True False\n"


@pytest.mark.parametrize("name", ["Lock", "RLock", "Condition", "Semaphore", "Event"])
def test_the_locks_of_original_threading_block_their_thread(name):
    thing = getattr(patcher.original("threading"), name)()

    def wait():
        if name == "Event":
            return thing.wait(0.002)
        return thing.acquire(timeout=0.002) if name != "Condition" else thing.acquire(True, 0.002)

    release = patcher.original("threading").Event()
    with patcher.patched():
        if name != "Event":
            held = patcher.original("threading").Event()

            def hold():
                thing.acquire()
                held.set()
                release.wait()
                thing.release()

            thread = patcher.original("threading").Thread(target=hold)
            thread.start()
            held.wait()
        assert lets_others_run(wait) is False
        assert wait() is False
    release.set()
    if name != "Event":
        thread.join()
        assert wait() is True
        thing.release()


def test_an_original_lock_is_a_lock():
    lock = patcher.original("_thread").allocate_lock()
    with patcher.patched():
        with lock as taken:
            assert taken is True
            assert lock.locked()
            assert not lock.acquire(False)
        assert not lock.locked()
        with pytest.raises(RuntimeError):
            lock.release()
    assert "lock" in repr(lock)


def test_an_original_queue_blocks_its_thread():
    simple = patcher.original("queue").SimpleQueue()
    full = patcher.original("queue").Queue(1)

    def get(source):
        with pytest.raises(queue.Empty):
            source.get(timeout=0.001)

    with patcher.patched():
        assert not lets_others_run(get, simple)
        assert not lets_others_run(get, full)


def test_an_original_socket_blocks_its_thread():
    a, b = patcher.original("socket").socketpair()
    with a, b, patcher.patched():
        a.settimeout(0.001)

        def receive():
            with pytest.raises(TimeoutError):
                a.recv(1)

        assert not lets_others_run(receive)
        b.send(b"x")
        assert a.recv(1) == b"x"


@pytest.mark.parametrize("name", ["SelectSelector", "PollSelector", "EpollSelector"])
def test_an_original_selector_blocks_its_thread(name):
    a, b = socket.socketpair()
    with a, b, patcher.patched():
        for module, cooperates in ((patcher.original("selectors"), False), (selectors, True)):
            with getattr(module, name)() as selector:
                selector.register(a, selectors.EVENT_READ)
                assert lets_others_run(selector.select, 0.001) is cooperates
                b.send(b"x")
                assert [key.fileobj for key, _ in selector.select()] == [a]
                a.recv(1)


def test_an_original_epoll_object_is_closed_by_with():
    with patcher.original("select").epoll() as poller:
        assert poller.fileno() >= 0
    assert poller.closed


def test_the_original_of_a_module_that_does_not_exist_is_an_import_error():
    with pytest.raises(ImportError):
        patcher.original("no_such_module")


@pytest.mark.parametrize("name", ["socket", "queue", "threading", "subprocess"])
def test_exceptions_and_enumerations_of_an_original_are_the_standard_library_s(name):
    import subprocess  # noqa: F401

    original, standard = patcher.original(name), sys.modules[name]
    shared = {"socket": ["timeout", "gaierror", "AF_INET", "AddressFamily"], "queue": ["Empty", "Full"]}
    shared |= {"threading": ["BrokenBarrierError"], "subprocess": ["TimeoutExpired", "SubprocessError"]}
    assert all(getattr(original, each) is getattr(standard, each) for each in shared[name])


def test_making_an_original_changes_nothing_in_the_standard_module():
    before = dict(vars(socket))
    patcher._originals.pop("socket", None)
    patcher.original("socket")
    assert all(value is before[name] for name, value in vars(socket).items())


def test_the_original_of_a_module_in_c_that_is_never_patched_is_that_module():
    import math

    assert patcher.original("math") is math


# ---- patch_ours -----------------------------------------------------------------------------


def test_a_function_of_ours_cooperates_whatever_is_patched():
    sleep = core.patch_ours("time", "sleep")
    assert sleep is core.patch_ours("time", "sleep")
    assert sleep is not time.sleep
    for on in (False, True, False):
        patcher.patch() if on else patcher.unpatch()
        assert lets_others_run(sleep, 0.001)
        assert lets_others_run(time.sleep, 0.001) is on


def test_a_method_of_ours_cooperates_whatever_is_patched():
    a, b = socket.socketpair()
    with a, b:
        task = spawn(core.patch_ours("_socket.socket", "recv"), a, 1)
        settle()
        b.send(b"x")
        assert task.result() == b"x"
        with pytest.raises(TypeError):
            core.patch_ours("_socket.socket", "recv")(None, 1)


@pytest.mark.parametrize("pick", [core.patch_ours, core.patch_native])
def test_what_has_no_patch_is_a_lookup_error(pick):
    with pytest.raises(LookupError, match=r"no patch for time\.time"):
        pick("time", "time")
    with pytest.raises(TypeError, match="takes 2 arguments"):
        pick("time")
    with pytest.raises(TypeError):
        pick("time", 1)


# ---- import_patched -------------------------------------------------------------------------


def test_import_patched_patches_everything_and_imports():
    assert patcher.import_patched("sched") is sys.modules["sched"]
    assert applied() == available(*GROUPS)


def test_import_patched_of_nothing_is_an_import_error():
    with pytest.raises(ImportError):
        patcher.import_patched("no_such_module")


# ---- programs -------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["first", "last"])
def test_a_program_may_patch_before_or_after_its_imports(where):
    patch = "from evergreen import patcher; patcher.patch()"
    out = output_of(
        f"""
        {patch if where == "first" else ""}
        import threading, time
        from time import sleep
        {patch if where == "last" else ""}
        order = []

        def work(name, seconds):
            sleep(seconds)
            order.append((name, threading.get_native_id() == threading.main_thread().native_id))

        threads = [threading.Thread(target=work, args=args) for args in (("b", 0.02), ("a", 0))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(order)
        """
    )
    assert out == "[('a', True), ('b', True)]\n"


def test_the_loop_may_be_made_after_the_patch():
    out = output_of(
        """
        import time
        from evergreen import EventLoop, patcher, spawn
        patcher.patch()
        loop = EventLoop()
        order = []
        for n in range(3):
            spawn(lambda n=n: (time.sleep(0.001), order.append(n)))
        loop.run()
        print(order)
        """
    )
    assert out == "[0, 1, 2]\n"


# ---- what stands on threading.Condition ----------------------------------------------------------


@pytest.mark.parametrize("kind", [queue.Queue, queue.LifoQueue, queue.PriorityQueue])
def test_a_getter_that_is_killed_after_it_was_notified_leaves_the_item_to_the_next(kind, hub):
    with patcher.patched():
        source = kind()
        for _ in range(20):
            first, second = spawn(source.get), spawn(source.get)
            settle()
            source.put(1)
            first.kill()
            assert second.result(1) == 1


def test_a_semaphore_whose_notified_waiter_is_killed_wakes_the_next(hub):
    with patcher.patched():
        gate = threading.Semaphore(0)
        first, second = spawn(gate.acquire), spawn(gate.acquire)
        settle()
        gate.release()
        first.kill()
        assert second.result(1)


def test_a_waiter_whose_time_is_up_as_it_is_notified_hands_the_notification_on(hub):
    with patcher.patched():
        condition = threading.Condition()

        def wait(timeout):
            with condition:
                return condition.wait(timeout)

        first, second = spawn(wait, 0.005), spawn(wait, None)
        settle()
        with condition:
            pass_time(0.01)
            condition.notify()
        assert first.result(1) or second.result(1)
        with condition:
            condition.notify()
        second.join(1)


def test_what_stands_for_a_method_of_threading_looks_like_it():
    native = threading.Condition.wait
    with patcher.patched():
        ours = threading.Condition.wait
        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            assert getattr(ours, name) == getattr(native, name)
        assert inspect.signature(ours).parameters.keys() == inspect.signature(native).parameters.keys()
        assert pickle.loads(pickle.dumps(ours)) is ours
    assert threading.Condition.wait is native


def test_what_stands_for_psycopgs_wait_is_a_function_with_its_name(monkeypatch):
    from evergreen import _drivers

    def wait_c(gen, fileno, interval=0.0):
        """Wait for the connection."""

    extension = types.SimpleNamespace(wait_c=wait_c, __name__="psycopg_c._psycopg")
    monkeypatch.setattr(_drivers, "_on", True)
    _drivers._change_psycopg(extension)
    ours = extension.wait_c
    assert ours is not wait_c and isinstance(ours, types.FunctionType)
    assert (ours.__name__, ours.__doc__, ours.__module__) == ("wait_c", wait_c.__doc__, wait_c.__module__)
    assert inspect.signature(ours) == inspect.signature(wait_c)
    monkeypatch.setattr(_drivers, "_on", False)
    _drivers._change_psycopg(extension)
    assert extension.wait_c is wait_c


# ---- what stands for a function looks like it ----------------------------------------------------


def look(thing):
    """What tools ask a function for: names, documentation, parameters."""
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (ValueError, AttributeError):
        parameters = ()  # the native one has no signature that can be read, either
    shown = [(one.name, one.kind, type(one.default).__name__) for one in parameters]
    return thing.__name__, thing.__qualname__, thing.__doc__, shown


CHANGED = """asyncio.base_events concurrent.futures.thread io logging multiprocessing.synchronize os queue
selectors signal socket sqlite3 ssl subprocess threading time weakref""".split()


def assigned_by_patch():
    """(where, before, after) of each attribute of a module, or of a class in it, that patch() changes."""
    owners = []
    for name in CHANGED:
        module = importlib.import_module(name)
        owners += [module, *(value for value in vars(module).values() if isinstance(value, type))]
    before = [(owner, name, value) for owner in owners for name, value in list(vars(owner).items())]
    with patcher.patched():
        return [
            (f"{owner.__name__}.{name}", value, vars(owner)[name])
            for owner, name, value in before
            if callable(value) and vars(owner).get(name) is not value
        ]


def test_whatever_patch_assigns_looks_like_what_was_there(hub):
    assigned = assigned_by_patch()
    assert "Condition.wait" in {where for where, _, _ in assigned}
    for where, before, after in assigned:
        assert look(after) == look(before), where
        assert after.__module__ == before.__module__, where
        assert hasattr(type(after), "__get__") == hasattr(type(before), "__get__"), where


def test_what_is_patched_in_place_is_the_same_object_and_looks_the_same():
    def found():
        for _, owner, name, _ in core.patch_list():
            module, _, attribute = owner.partition(".")
            if module in sys.modules and not attribute.endswith("()"):
                place = sys.modules[module]
                place = getattr(place, attribute, None) if attribute else place
                if place is not None and name in vars(place):
                    yield f"{owner}.{name}", vars(place)[name]

    before = {where: (thing, look(thing)) for where, thing in found()}
    with patcher.patched():
        for where, thing in found():
            assert thing is before[where][0] and look(thing) == before[where][1], where


@pytest.mark.parametrize("copy", ["original", "lib"])
@pytest.mark.parametrize("name", ["select", "selectors", "socket", "time", "os", "subprocess", "io"])
def test_the_functions_of_a_copy_look_like_the_standard_librarys(name, copy):
    real = importlib.import_module(name)
    ours = patcher.original(name) if copy == "original" else importlib.import_module(f"evergreen.lib.{name}")
    pairs = [(called, value, vars(ours)[called]) for called, value in vars(real).items() if callable(value)]
    for called, native, stand_in in pairs:
        if (
            stand_in is native
            or called.startswith("__")
            or (name, called) in (("select", "poll"), ("io", "open"))
        ):
            continue  # poll() is a class in the copies
        if not isinstance(native, type):
            assert look(stand_in) == look(native), called
            continue
        assert (stand_in.__name__, stand_in.__doc__) == (native.__name__, native.__doc__), called
        for method, value in vars(native).items():
            if callable(value) and not isinstance(value, type) and not method.startswith("_"):
                assert look(getattr(stand_in, method)) == look(getattr(native, method)), f"{called}.{method}"


class Reader:
    _turn = None

    @core.in_turn
    def read(self, n=1):
        """Read."""


def test_a_method_that_takes_turns_looks_like_the_one_beneath(hub):
    assert look(Reader.read) == ("read", "Reader.read", "Read.", look(Reader.read)[3])
    assert list(inspect.signature(Reader.read).parameters) == ["self", "n"]
    assert Reader.read.__module__ == __name__
    assert pickle.loads(pickle.dumps(Reader.read)) is Reader.read
    for ours, native in ((file.TextFile, io.TextIOWrapper), (file.BufferedReader, io.BufferedReader)):
        for name in ("close", "flush", "read", "readline", "seek", "tell", "writelines"):
            assert look(getattr(ours, name))[2:] == look(getattr(native, name))[2:], name
