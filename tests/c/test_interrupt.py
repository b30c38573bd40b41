"""interrupt.c: signal handlers run as main, whatever runs when the signal comes."""

import os
import signal
import textwrap

import pytest
from helpers import child_python, output_of, pass_time, run_python, settle, wait_until_asleep

import evergreen
from evergreen import TaskExit, sleep, spawn
from evergreen.event import Event
from evergreen.local import local as local_storage
from evergreen.locks import RLock

PRELUDE = """
import contextvars, logging, os, queue, signal, socket, subprocess, sys, threading, time

def send(signum=signal.SIGUSR1):
    os.kill(os.getpid(), signum)

def compute(rounds=200000):
    for _ in range(rounds):
        pass
    return "computed"

def in_thread(function, *args, daemon=None):
    thread = threading.Thread(target=function, args=args, daemon=daemon)
    thread.start()
    return thread
"""

PATCH = "from evergreen import patcher; patcher.patch()\n"


def ends_as_native(code, expected):
    """Run a program natively and patched: both print the same and end with the same status.

    When native threads run is the system's business, so on a busy machine that run has three chances.
    """
    code = PRELUDE + textwrap.dedent(code)
    patched = run_python(PATCH + code)
    assert (patched.stdout, patched.returncode) == expected, patched.stderr
    natives = (run_python(code) for _ in range(3))
    assert any((native.stdout, native.returncode) == expected for native in natives)


# ---- exceptions --------------------------------------------------------


@pytest.mark.parametrize(
    "main",
    [
        "in_thread(work).join()",
        "in_thread(work); queue.Queue().get()",
        "in_thread(work); threading.Event().wait(30)",
        "in_thread(work); time.sleep(30)",
        "in_thread(work); socket.socketpair()[0].recv(1)",
        "in_thread(work); os.read(os.pipe()[0], 1)",
        "in_thread(work); threading.Condition().__enter__(); l = threading.Lock(); l.acquire(); l.acquire()",
    ],
)
def test_system_exit_of_a_handler_ends_the_program_while_a_thread_computes(main):
    ends_as_native(
        f"""
        signal.signal(signal.SIGTERM, lambda *args: sys.exit(7))

        def work():
            send(signal.SIGTERM)
            compute()

        {main}
        print("still here")
        """,
        ("", 7),
    )


def test_a_daemon_that_never_waits_does_not_keep_what_a_handler_raises_from_main():
    ends_as_native(
        """
        class Alarm(Exception):
            pass

        def handler(signum, frame):
            raise Alarm

        def work():
            while True:
                pass

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            in_thread(work, daemon=True).join()
        except Alarm:
            print("alarm", flush=True)
        os._exit(3)
        """,
        ("alarm\n", 3),
    )


def test_a_thread_never_meets_what_a_handler_raises():
    ends_as_native(
        """
        def work():
            go.wait()
            try:
                send(signal.SIGINT)
                met.append(compute())
            except BaseException as exc:
                met.append(exc)

        met, go = [], threading.Event()
        thread = in_thread(work)
        try:
            go.set()
            time.sleep(30)
        except KeyboardInterrupt:
            print("interrupted")
        thread.join()
        print(met)
        """,
        ("interrupted\n['computed']\n", 0),
    )


def test_what_a_handler_raises_may_be_caught_around_the_wait_of_main():
    ends_as_native(
        """
        class Alarm(Exception):
            pass

        def handler(signum, frame):
            raise Alarm("from the handler")

        signal.signal(signal.SIGUSR1, handler)
        read, write = os.pipe()

        def work():
            for _ in range(3):
                os.read(read, 1)
                send()
                compute()

        thread = in_thread(work)
        for _ in range(3):
            try:
                os.write(write, b"x")
                time.sleep(30)
            except Alarm as exc:
                print(repr(exc))
        thread.join()
        """,
        ("Alarm('from the handler')\n" * 3, 0),
    )


def test_ctrl_c_kills_a_spawned_task_that_computes(hub):
    met = []

    def work():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            while True:
                pass
        except BaseException as exc:
            met.append(type(exc))
            raise

    task = spawn(work)
    with pytest.raises(KeyboardInterrupt):
        task.join()
    task.join()
    assert met == [TaskExit]


# ---- who the handler is --------------------------------------------------------


def test_a_handler_has_the_identity_the_data_and_the_frame_of_main():
    ends_as_native(
        """
        in_thread(compute, 1).join()
        local = threading.local()
        local.name = "main's"
        variable = contextvars.ContextVar("variable", default="nobody's")
        variable.set("main's")

        def handler(signum, frame):
            print(threading.current_thread().name, threading.get_ident() == threading.main_thread().ident)
            print(getattr(local, "name", "nobody's"), variable.get())
            while frame and frame.f_code.co_name != "main_waits":
                frame = frame.f_back
            print(frame is not None)
            local.seen = True

        def work():
            go.wait()
            local.name = "the thread's"
            send()
            compute()
            assert local.name == "the thread's" and not hasattr(local, "seen")
            assert threading.current_thread().name == "worker"

        def main_waits(thread):
            go.set()
            thread.join()

        go = threading.Event()
        signal.signal(signal.SIGUSR1, handler)
        thread = threading.Thread(target=work, name="worker")
        thread.start()
        main_waits(thread)
        print(local.seen)
        """,
        ("MainThread True\nmain's main's\nTrue\nTrue\n", 0),
    )


@pytest.mark.parametrize("kind", ["threading.RLock()", "threading.Condition()"])
def test_a_handler_takes_an_rlock_that_main_holds(kind):
    ends_as_native(
        f"""
        lock = {kind}

        def handler(signum, frame):
            with lock:
                print("taken")

        def work():
            send()
            compute()
            with lock:
                print("released")

        signal.signal(signal.SIGUSR1, handler)
        with lock:
            thread = in_thread(work)
            while not hasattr(signal, "done"):
                time.sleep(0.001)
                signal.done = True
            time.sleep(0.02)
        thread.join()
        """,
        ("taken\nreleased\n", 0),
    )


def test_a_handler_takes_an_rlock_of_ours_that_main_holds(hub):
    lock, taken = RLock(), []
    before = signal.signal(
        signal.SIGUSR1, lambda *args: taken.append(lock.acquire(timeout=1) and lock.release())
    )

    def work():
        os.kill(os.getpid(), signal.SIGUSR1)
        pass_time()

    with lock:
        spawn(work).join()
    assert taken == [None]
    signal.signal(signal.SIGUSR1, before)


def test_a_handler_logs_while_main_logs():
    ends_as_native(
        """
        class Slow(logging.StreamHandler):
            def emit(self, record):
                if record.msg == "main":
                    send_from.set()
                    time.sleep(0.05)
                print(record.msg)

        send_from = threading.Event()
        logging.basicConfig(handlers=[Slow()])
        signal.signal(signal.SIGUSR1, lambda *args: logging.warning("handler"))

        def work():
            send_from.wait()
            send()
            compute()
            logging.warning("thread")

        thread = in_thread(work)
        logging.warning("main")
        thread.join()
        """,
        ("handler\nmain\nthread\n", 0),
    )


def test_a_handler_may_set_handlers_and_the_wakeup_fd():
    ends_as_native(
        """
        def second(signum, frame):
            print("second", threading.current_thread().name)

        def first(signum, frame):
            print(signal.signal(signal.SIGUSR1, second) is first)
            print(signal.getsignal(signal.SIGUSR1) is second)
            print(signal.set_wakeup_fd(-1))

        def work():
            send()
            time.sleep(0.05)
            send()
            compute()

        signal.signal(signal.SIGUSR1, first)
        in_thread(work).join()
        """,
        ("True\nTrue\n-1\nsecond MainThread\n", 0),
    )


def test_a_sigchld_handler_runs_as_main_beside_a_wait_in_a_thread():
    ends_as_native(
        """
        def handler(signum, frame):
            seen.append(threading.current_thread().name)

        seen = []
        signal.signal(signal.SIGCHLD, handler)
        def work():
            print(subprocess.Popen(["true"]).wait())
        for _ in range(3):
            in_thread(work).join()
        time.sleep(0.01)
        print(set(seen))
        """,
        ("0\n0\n0\n{'MainThread'}\n", 0),
    )


def test_a_handler_sees_the_current_task_and_local_storage_of_main(hub):
    local, seen = local_storage(), []
    local.value = "main's"

    def handler(signum, frame):
        seen.append((evergreen.current.task, getattr(local, "value", None)))

    before = signal.signal(signal.SIGUSR1, handler)
    spawn(lambda: (os.kill(os.getpid(), signal.SIGUSR1), pass_time())).join()
    assert seen == [(hub.main_task, "main's")]
    signal.signal(signal.SIGUSR1, before)


# ---- handlers that wait --------------------------------------------------------


def test_others_run_while_a_handler_waits_and_main_does_not():
    ends_as_native(
        """
        def handler(signum, frame):
            order.append("begin")
            gate.wait()
            order.append("end")

        def work():
            send()
            time.sleep(0.02)
            order.append("thread")
            answers.put(1)
            time.sleep(0.02)
            gate.set()

        order, gate, answers = [], threading.Event(), queue.Queue()
        signal.signal(signal.SIGUSR1, handler)
        thread = in_thread(work)
        answers.get()
        order.append("main")
        thread.join()
        print(order)
        """,
        ("['begin', 'thread', 'end', 'main']\n", 0),
    )


def test_a_wait_of_main_that_timed_out_ends_when_the_handler_has_returned():
    ends_as_native(
        """
        def handler(signum, frame):
            order.append("begin")
            time.sleep(0.1)
            order.append("end")

        order = []
        signal.signal(signal.SIGUSR1, handler)
        thread = in_thread(send)
        print(threading.Event().wait(0.02))
        print(order)
        """,
        ("False\n['begin', 'end']\n", 0),
    )


def test_a_signal_that_comes_while_a_handler_waits_is_handled_on_top_of_it():
    ends_as_native(
        """
        def waits(signum, frame):
            order.append("begin")
            gate.wait()
            order.append("end")

        def opens(signum, frame):
            order.append(threading.current_thread().name)
            gate.set()

        def work():
            send()
            time.sleep(0.02)
            send(signal.SIGUSR2)

        order, gate = [], threading.Event()
        signal.signal(signal.SIGUSR1, waits)
        signal.signal(signal.SIGUSR2, opens)
        in_thread(work).join()
        time.sleep(0.02)
        print(order)
        """,
        ("['begin', 'MainThread', 'end']\n", 0),
    )


def test_what_a_handler_raises_is_raised_in_the_handler_that_it_interrupts():
    ends_as_native(
        """
        def waits(signum, frame):
            try:
                time.sleep(30)
            except KeyboardInterrupt:
                print("in the handler")
                raise

        def work():
            send()
            time.sleep(0.02)
            send(signal.SIGINT)

        signal.signal(signal.SIGUSR1, waits)
        try:
            in_thread(work).join()
            time.sleep(1)
        except KeyboardInterrupt:
            print("in main")
        """,
        ("in the handler\nin main\n", 0),
    )


def test_signals_that_come_while_their_handler_waits_are_handled_once_afterwards():
    out = output_of(
        PATCH
        + PRELUDE
        + """
running = most = calls = 0

def handler(signum, frame):
    global running, most, calls
    running += 1
    calls += 1
    most = max(most, running)
    time.sleep(0.03)
    running -= 1

signal.signal(signal.SIGALRM, handler)
in_thread(compute, 1).join()
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
stop = time.monotonic() + 0.5
while time.monotonic() < stop:
    time.sleep(0.01)
signal.setitimer(signal.ITIMER_REAL, 0)
import evergreen
print(most <= 2, 2 <= calls <= 25, len(evergreen.current.loop.tasks()))
"""
    )
    assert out == "True True 0\n"


def test_the_second_request_to_end_does_not_wait_for_the_first():
    with child_python(
        PATCH
        + PRELUDE
        + """
asked = 0

def handler(signum, frame):
    global asked
    asked += 1
    if asked == 2:
        os._exit(5)
    print("ending", flush=True)
    time.sleep(30)

signal.signal(signal.SIGINT, handler)
print("ready", flush=True)
in_thread(time.sleep, 30).join()
"""
    ) as child:
        child.stdout.readline()
        wait_until_asleep(child.pid)
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "ending\n"
        wait_until_asleep(child.pid)
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 5


def test_a_handler_may_wait_for_ever_without_tasks_starving(hub):
    gate, ran = Event(), []
    before = signal.signal(signal.SIGUSR1, lambda *args: gate.wait())
    spawn(lambda: (os.kill(os.getpid(), signal.SIGUSR1), pass_time()))
    for n in range(5):
        spawn(lambda n=n: (sleep(0.001), ran.append(n), ran[4:] and gate.set()))
    sleep(0.003)
    assert sorted(ran) == [0, 1, 2, 3, 4]
    signal.signal(signal.SIGUSR1, before)


def test_a_handler_may_spawn_wait_for_and_kill_tasks(hub):
    victim, seen = spawn(sleep, 1000), []

    def handler(signum, frame):
        seen.append(spawn(lambda: sleep(0.001) or "spawned").result())
        victim.kill()
        victim.join()

    before = signal.signal(signal.SIGUSR1, handler)
    os.kill(os.getpid(), signal.SIGUSR1)
    sleep(0.001)
    settle()
    assert seen == ["spawned"]
    assert not victim.is_alive()
    signal.signal(signal.SIGUSR1, before)


def test_a_thing_handed_to_main_while_a_handler_waits_is_not_lost():
    ends_as_native(
        """
        items, gate = queue.Queue(), threading.Event()
        signal.signal(signal.SIGUSR1, lambda *args: gate.wait())

        def work():
            send()
            time.sleep(0.01)
            for n in range(3):
                items.put(n)
            time.sleep(0.01)
            gate.set()

        thread = in_thread(work)
        print([items.get() for _ in range(3)])
        thread.join()
        """,
        ("[0, 1, 2]\n", 0),
    )


# ---- whatever runs, and wherever main is --------------------------------------------------------


def test_a_handler_runs_as_main_when_main_has_ended_and_waits_for_its_threads():
    ends_as_native(
        """
        signal.signal(signal.SIGUSR1, lambda *args: print(threading.current_thread().name, flush=True))

        def work():
            time.sleep(0.02)
            send()
            compute()

        in_thread(work)
        """,
        ("MainThread\n", 0),
    )


def test_a_handler_runs_without_a_hub_and_after_one_has_come_and_gone():
    out = output_of(
        """
        import os, signal
        import evergreen
        seen = []
        handler = lambda *args: seen.append(len(seen))
        signal.signal(signal.SIGUSR1, handler)
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(2):
            loop = evergreen.EventLoop()
            assert signal.getsignal(signal.SIGUSR1) is handler
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            os.kill(os.getpid(), signal.SIGUSR1)
            loop.destroy()
            assert signal.getsignal(signal.SIGUSR1) is handler
            os.kill(os.getpid(), signal.SIGUSR1)
        print(seen)
        """
    )
    assert out == "[0, 1, 2, 3, 4]\n"


def test_a_hub_in_another_thread_leaves_handlers_to_main():
    out = output_of(
        """
        import os, signal, threading
        import evergreen
        names = []
        signal.signal(signal.SIGUSR1, lambda *args: names.append(threading.current_thread().name))

        def work():
            loop = evergreen.EventLoop()
            evergreen.sleep(0.01)
            os.kill(os.getpid(), signal.SIGUSR1)
            evergreen.sleep(0.01)
            loop.destroy()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        print(names)
        """
    )
    assert out == "['MainThread']\n"


def test_a_signal_in_a_callback_is_handled_when_it_has_returned(hub):
    order, done = [], Event()
    before = signal.signal(signal.SIGUSR1, lambda *args: (sleep(0), order.append("handler"), done.set()))

    def callback():
        os.kill(os.getpid(), signal.SIGUSR1)
        pass_time()
        order.append("callback")

    hub.call_soon(callback)
    assert done.wait(30) is True
    assert order == ["callback", "handler"]
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_in_a_greenlet_of_others_on_the_stack_of_main_is_handled_there(hub):
    greenlet = pytest.importorskip("greenlet")
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *args: seen.append(greenlet.getcurrent()))
    own = greenlet.greenlet(lambda: (os.kill(os.getpid(), signal.SIGUSR1), pass_time()))
    own.switch()
    assert seen == [own]
    parked = greenlet.greenlet(lambda: spawn(send_soon).join())

    def send_soon():
        os.kill(os.getpid(), signal.SIGUSR1)
        pass_time()

    parked.switch()
    settle()
    assert seen[1:] == [parked]
    signal.signal(signal.SIGUSR1, before)


def test_the_system_keeps_what_it_was_told_of_a_signal():
    output_of(
        """
        import ctypes, os, signal, socket, threading
        libc = ctypes.CDLL(None)

        def flags(signum):
            action = (ctypes.c_uint64 * 32)()
            libc.sigaction(signum, None, action)
            return action[17] & 0xffffffff

        signal.signal(signal.SIGUSR1, lambda *args: None)
        signal.siginterrupt(signal.SIGUSR1, False)
        before = flags(signal.SIGUSR1)
        import evergreen
        loop = evergreen.EventLoop()
        assert flags(signal.SIGUSR1) == before
        loop.destroy()
        assert flags(signal.SIGUSR1) == before
        """
    )


def test_signals_that_rain_on_tasks_that_compute_and_wait_lose_nothing():
    out = output_of(
        PATCH
        + PRELUDE
        + """
import evergreen
seen = 0

def handler(signum, frame):
    global seen
    assert threading.current_thread() is threading.main_thread()
    with lock:
        seen += 1

lock = threading.RLock()
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
results = queue.Queue()

def work(number):
    for n in range(100):
        compute(300)
        results.put((number, n))
        with lock:
            compute(10)
        if n % 10 == 0:
            time.sleep(0.001)

threads = [in_thread(work, n) for n in range(20)]
got = [results.get() for _ in range(2000)]
for thread in threads:
    thread.join()
signal.setitimer(signal.ITIMER_REAL, 0)
assert sorted(got) == [(number, n) for number in range(20) for n in range(100)]
print(seen > 5)
"""
    )
    assert out == "True\n"
