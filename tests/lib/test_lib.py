"""evergreen.lib: importing it changes nothing in the standard library."""

import pytest
from helpers import output_of

NAMES = ["io", "os", "queue", "select", "selectors", "socket", "ssl", "subprocess", "threading", "time"]


def test_the_standard_modules_are_untouched():
    out = output_of(
        f"""
        import importlib, sys
        names = {NAMES} + ["_socket", "_ssl", "_thread", "_io", "posix", "_queue", "enum", "builtins"]
        modules = [importlib.import_module(name) for name in names]

        def look():
            found = {{}}
            for module in modules:
                for name, value in vars(module).items():
                    found[module.__name__, name] = id(value)
                    if isinstance(value, type) and value.__module__ == module.__name__:
                        for inner, thing in vars(value).items():
                            if inner not in ("__annotations__", "_abc_impl"):
                                found[module.__name__, name, inner] = id(thing)
            return found

        keep = [vars(value).copy() for module in modules for value in (module, *vars(module).values())
                if hasattr(value, "__dict__")]
        before = look()
        import evergreen.lib
        for name in {NAMES}:
            importlib.import_module(f"evergreen.lib.{{name}}")
        after = look()
        print([key for key in before | after if before.get(key) != after.get(key)])
        print([name for name, module in zip(names, modules) if sys.modules[name] is not module])
        print(evergreen.patcher.is_patched("time") if hasattr(evergreen, "patcher") else False)
        """
    )
    assert out == "[]\n[]\nFalse\n"


def test_the_standard_calls_go_on_to_block():
    out = output_of(
        """
        import select, socket, threading, time
        from evergreen import spawn
        from evergreen.lib import socket as ours, threading as our_threading, time as our_time
        ran = []
        task = spawn(ran.append, 1)
        time.sleep(0.001)
        a, b = socket.socketpair()
        a.settimeout(0.001)
        try:
            a.recv(1)
        except TimeoutError:
            pass
        select.select([a], [], [], 0.001)
        lock = threading.Lock()
        lock.acquire()
        lock.acquire(timeout=0.001)
        found = []
        thread = threading.Thread(target=lambda: found.append(threading.get_native_id()))
        thread.start()
        thread.join()
        print(ran, found != [threading.get_native_id()], type(a) is socket.socket)
        our_time.sleep(0.001)
        print(ran)
        for end in (a, b):
            end.close()
        """
    )
    assert out == "[] True True\n[1]\n"


@pytest.mark.parametrize("name", NAMES)
def test_each_module_may_be_imported_alone(name):
    out = output_of(
        f"""
        from evergreen.lib import {name}
        import {name} as standard
        print({name} is not standard, {name}.__name__, {name}.__doc__.startswith("`{name}`"))
        """
    )
    assert out == f"True evergreen.lib.{name} True\n"


def test_all_may_be_imported_at_once():
    assert output_of("from evergreen.lib import *; print(socket.__name__)") == "evergreen.lib.socket\n"


@pytest.mark.parametrize("first", ["patch", "lib"])
def test_patching_before_or_after_makes_no_difference(first):
    patch, lib = (
        "from evergreen import patcher; patcher.patch()",
        "from evergreen.lib import socket, threading",
    )
    out = output_of(
        f"""
        {patch if first == "patch" else lib}
        {lib if first == "patch" else patch}
        import socket as standard
        from evergreen import patcher, spawn
        for _ in range(2):
            a, b = socket.socketpair()
            task = spawn(a.recv, 1)
            thread = threading.Thread(target=b.send, args=(b"x",))
            thread.start()
            thread.join()
            print(task.result(), type(a) is standard.socket)
            a.close(), b.close()
            patcher.unpatch()
        """
    )
    assert out == "b'x' False\nb'x' False\n"
