"""What patching costs where nobody waits: a lock that is free, and threads that have no loop.

`plain` is the same with nothing patched.  The native thread takes and gives back a lock, or sends and
receives 8 bytes on a socket pair; the thread that runs the loop waits for it meanwhile.
"""

import socket
import threading

from workloads import Workload

WORKLOADS = (
    Workload(
        "lock_patched",
        "threading.Lock in a task, everything patched",
        per="pair",
        counts=(200_000,),
        options={"what": "lock", "native": False},
    ),
    Workload(
        "lock_native",
        "threading.Lock in a native thread, everything patched",
        per="pair",
        counts=(200_000,),
        options={"what": "lock", "native": True},
    ),
    Workload(
        "socket_native",
        "send and recv in a native thread, everything patched",
        per="pair",
        counts=(50_000,),
        options={"what": "socket", "native": True},
    ),
)


def work(count, meter, what):
    if what == "lock":
        lock = threading.Lock()
        acquire, release = lock.acquire, lock.release
        with meter:
            for _ in range(count):
                acquire()
                release()
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send, recv = ours.send, theirs.recv
        with meter:
            for _ in range(count):
                send(b"12345678")
                recv(8)


def on_evergreen(count, meter, what, native):
    from evergreen import event, patcher

    def run():
        work(count, meter, what)
        done.set()

    patcher.patch()
    if not native:
        work(count, meter, what)
        return
    done = event.Event()
    patcher.original("_thread").start_new_thread(run, ())
    done.wait()


def on_gevent(count, meter, what, native):
    import gevent.monkey

    gevent.monkey.patch_all()
    if not native:
        work(count, meter, what)
        return
    done = gevent.get_hub().threadpool.spawn(work, count, meter, what)
    done.get()


def on_plain(count, meter, what, native):
    if not native:
        work(count, meter, what)
        return
    thread = threading.Thread(target=work, args=(count, meter, what))
    thread.start()
    thread.join()
