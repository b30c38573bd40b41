"""local.c: greenlet-local storage."""

import gc
import inspect
import sys
import threading
import weakref

import greenlet
import pytest
from helpers import Boom, in_thread, output_of, settle

import evergreen
from evergreen import EventLoop, sleep, spawn
from evergreen.event import Event
from evergreen.local import local


class Value:
    pass


def run(function, *args):
    return spawn(function, *args).result()


# ---- attributes ------------------------------------------------------------------------------------


def test_each_task_has_its_own_attributes(hub):
    data = local()
    data.number = "main"

    def work(number):
        assert not hasattr(data, "number")
        data.number = number
        sleep(0)
        seen.append(data.number)
        sleep(0)
        return data.number

    seen = []
    tasks = [spawn(work, number) for number in range(10)]
    assert [task.result() for task in tasks] == list(range(10))
    assert seen == list(range(10))
    assert data.number == "main"


def test_what_is_not_there_is_an_attribute_error(hub):
    data = local()
    with pytest.raises(AttributeError, match="number"):
        data.number  # noqa: B018
    with pytest.raises(AttributeError):
        del data.number
    data.number = 1
    del data.number
    assert not hasattr(data, "number")
    assert getattr(data, "number", "default") == "default"


def test_dict_vars_and_dir_are_of_the_task(hub):
    data = local()
    data.a, data._b = 1, 2
    assert data.__dict__ == vars(data) == {"a": 1, "_b": 2}
    assert {"a", "_b", "__dict__"} <= {*dir(data), "__dict__"}
    data.__dict__["c"] = 3
    assert data.c == 3

    def work():
        assert vars(data) == {}
        vars(data).update(x=1)
        return data.x, "a" in dir(data)

    assert run(work) == (1, False)
    assert "x" not in vars(data)


def test_the_dict_cannot_be_replaced(hub):
    data = local()
    data.a = 1
    with pytest.raises(AttributeError, match="read-only"):
        data.__dict__ = {}
    with pytest.raises(AttributeError, match="read-only"):
        del data.__dict__
    assert data.a == 1


def test_names_of_any_kind(hub):
    data = local()
    for name in ("", "_", "__x__", "ä", "with space", "__class_getitem__"):
        setattr(data, name, name)
        assert getattr(data, name) == name
        assert run(lambda name=name: hasattr(data, name)) is False
    with pytest.raises(TypeError):
        getattr(data, 1)
    with pytest.raises(TypeError):
        setattr(data, 1, 1)
    assert data.__class__ is local


def test_several_locals_do_not_meet(hub):
    first, second = local(), local()
    first.x = 1
    assert not hasattr(second, "x")
    second.x = 2
    assert (first.x, second.x) == (1, 2)


def test_values_end_with_the_task(hub):
    data = local()

    def work():
        data.value = Value()
        refs.append(weakref.ref(data.value))

    refs = []
    tasks = [spawn(work) for _ in range(5)]
    for task in tasks:
        task.join()
    settle()
    assert [ref() for ref in refs] == [None] * 5


def test_values_of_a_killed_task_end(hub):
    data = local()

    def work():
        data.value = Value()
        refs.append(weakref.ref(data.value))
        sleep(100)

    refs = []
    task = spawn(work)
    settle()
    task.kill()
    task.join()
    settle()
    assert refs[0]() is None


def test_a_recycled_greenlet_never_sees_the_data_of_another_task(hub):
    data, greenlets = local(), set()

    def work(number):
        assert vars(data) == {}
        greenlets.add(id(greenlet.getcurrent()))
        data.number = number
        if number % 3 == 0:
            sleep(0)
        assert data.number == number

    for round in range(50):
        for task in [spawn(work, round * 20 + number) for number in range(20)]:
            task.result()
    assert len(greenlets) < 900  # they were recycled


def test_a_finaliser_of_a_value_may_use_the_local_again(hub):
    data = local()

    class Clingy:
        def __del__(self):
            data.again = Value()
            refs.append(weakref.ref(data.again))

    def work():
        data.value = Clingy()

    refs = []
    run(work)
    settle()
    gc.collect()
    assert refs[0]() is None


# ---- who uses it -------------------------------------------------------------------------------------


def test_native_threads_have_their_own(hub):
    data = local()
    data.x = "main"

    def thread():
        assert not hasattr(data, "x")
        data.x = "thread"
        return data.x

    assert in_thread(thread) == "thread"
    assert data.x == "main"


def test_values_end_with_a_native_thread(hub):
    data, refs = local(), []

    def thread():
        data.value = Value()
        refs.append(weakref.ref(data.value))

    for _ in range(3):
        in_thread(thread)
    greenlet.greenlet(lambda: None).switch()  # greenlet clears what threads left behind
    in_thread(lambda: None)
    gc.collect()
    assert [ref() for ref in refs].count(None) >= 2


def test_tasks_of_another_loop_have_their_own(hub):
    data = local()
    data.x = "here"

    def thread():
        loop = EventLoop()

        def work():
            seen.append(hasattr(data, "x"))
            data.x = "there"

        spawn(work).result()
        seen.append(hasattr(data, "x"))
        loop.destroy()

    seen = []
    in_thread(thread)
    assert seen == [False, False]
    assert data.x == "here"


def test_raw_greenlets_have_their_own(hub):
    data = local()
    data.x = "main"

    def raw():
        assert not hasattr(data, "x")
        data.x = "raw"
        greenlet.getcurrent().parent.switch()
        return data.x

    other = greenlet.greenlet(raw)
    other.switch()
    assert data.x == "main"
    assert other.switch() == "raw"


def test_callbacks_of_the_loop_share_one(hub):
    data, seen = local(), []
    data.x = "main"
    hub.call_soon(lambda: (seen.append(hasattr(data, "x")), setattr(data, "x", "callback")))
    hub.call_soon(lambda: seen.append(data.x))
    settle()
    assert seen == [False, "callback"]
    assert data.x == "main"


def test_it_is_kept_in_the_greenlets_dict(hub):
    data = local()

    def work():
        data.x = 1
        mine = greenlet.getcurrent().__dict__
        assert len(mine) == 1
        mine.clear()
        return hasattr(data, "x")

    assert run(work) is False


# ---- its own end -------------------------------------------------------------------------------------


def test_a_local_that_ends_before_the_greenlets_takes_its_values_along(hub):
    data = local()
    data.value = Value()
    refs = [weakref.ref(data.value), weakref.ref(data)]

    def work():
        holder[0].value = Value()
        refs.append(weakref.ref(holder[0].value))
        before = len(greenlet.getcurrent().__dict__)
        gate.wait()
        return before, len(greenlet.getcurrent().__dict__)

    holder, gate = [data], Event()
    task = spawn(work)
    settle()
    holder.clear()
    del data
    assert [ref() for ref in refs] == [None] * 3
    gate.set()
    assert task.result() == (1, 0)


def test_a_local_that_its_own_value_refers_to_is_collected(hub):
    data = local()
    data.myself = data
    data.value = value = Value()
    value.local = data
    refs = [weakref.ref(data), weakref.ref(value)]
    del data, value
    gc.collect()
    if refs[0]() is not None:  # the running greenlet's own data is reachable: from the greenlet
        vars(refs[0]()).clear()
        gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_the_same_in_a_task_ends_with_the_task(hub):
    def work():
        data = local()
        data.myself = data
        refs.append(weakref.ref(data))

    refs = []
    run(work)
    settle()
    gc.collect()
    assert refs[0]() is None


def test_ten_thousand_locals_come_and_go(hub):
    before = len(greenlet.getcurrent().__dict__)
    for number in range(10_000):
        data = local()
        data.x = number
    del data
    assert len(greenlet.getcurrent().__dict__) == before


def test_a_local_dies_while_another_threads_greenlet_has_data_in_it(hub):
    up, down = threading.Event(), threading.Event()
    holder = [local()]
    refs = []

    def thread():
        holder[0].value = Value()
        refs.append(weakref.ref(holder[0].value))
        up.set()
        down.wait(30)

    other = threading.Thread(target=thread)
    other.start()
    up.wait(30)
    holder.clear()
    assert refs[0]() is None
    down.set()
    other.join()


# ---- subclasses ----------------------------------------------------------------------------------------


def test_init_is_called_in_each_greenlet_with_the_same_arguments(hub):
    calls = []

    class Mine(local):
        def __init__(self, *args, **kwargs):
            calls.append((args, kwargs))
            self.args = args

    data = Mine(1, 2, three=3)
    assert data.args == (1, 2)
    assert run(lambda: data.args) == (1, 2)
    assert in_thread(lambda: data.args) == (1, 2)
    assert calls == [((1, 2), {"three": 3})] * 3


def test_init_is_called_once_a_greenlet_whatever_is_done_first(hub):
    calls = []

    class Mine(local):
        def __init__(self):
            calls.append(1)

    data = Mine()
    for action in (
        lambda: vars(data),
        lambda: setattr(data, "x", 1),
        lambda: hasattr(data, "x"),
        lambda: data.__dict__,
    ):
        calls.clear()
        run(lambda action=action: (action(), action()))
        assert calls == [1]


def test_an_init_that_fails_is_tried_again(hub):
    class Mine(local):
        fail = False

        def __init__(self):
            self.half = 1
            if Mine.fail:
                raise Boom
            self.whole = 1

    data = Mine()

    def work():
        Mine.fail = True
        for _ in range(2):
            with pytest.raises(Boom):
                data.whole  # noqa: B018
            with pytest.raises(Boom):
                data.x = 1
        Mine.fail = False
        return data.whole

    assert run(work) == 1
    Mine.fail = True
    with pytest.raises(Boom):
        Mine()


def test_an_init_that_clears_the_greenlets_data_is_a_runtime_error(hub):
    class Mine(local):
        def __init__(self):
            if greenlet.getcurrent().parent:
                greenlet.getcurrent().__dict__.clear()

    data = Mine()

    def work():
        with pytest.raises(RuntimeError, match="cleared"):
            data.x = 1

    run(work)


def test_an_init_that_waits(hub):
    class Mine(local):
        def __init__(self):
            sleep(0)
            self.task = evergreen.current.task

    data = Mine()
    tasks = [spawn(lambda: data.task) for _ in range(5)]
    assert [task.result() for task in tasks] == tasks


def test_arguments_without_an_init_are_refused(hub):
    class Mine(local):
        pass

    for kind in (local, Mine):
        for call in (lambda kind=kind: kind(1), lambda kind=kind: kind(x=1)):
            with pytest.raises(TypeError, match="arguments"):
                call()


def test_methods_properties_and_class_attributes(hub):
    class Mine(local):
        shared = "class"

        def __init__(self):
            self._number = 0

        @property
        def number(self):
            return self._number

        @number.setter
        def number(self, value):
            self._number = value

        def add(self, n):
            self.number += n
            return self.number

        @classmethod
        def make(cls):
            return cls()

        @staticmethod
        def nothing():
            return None

    data = Mine.make()
    data.number = 5
    assert (data.add(2), data.number, data.nothing()) == (7, 7, None)
    assert run(lambda: data.add(1)) == 1
    assert data.number == 7
    assert data.shared == "class"
    data.shared = "mine"
    assert (data.shared, run(lambda: data.shared)) == ("mine", "class")
    del data.shared
    assert data.shared == "class"


def test_slots_of_a_subclass_are_shared(hub):
    class Mine(local):
        __slots__ = ("slot",)

    data = Mine()
    data.slot, data.own = 1, 2
    assert run(lambda: (data.slot, hasattr(data, "own"))) == (1, False)


def test_getattr_and_setattr_of_a_subclass(hub):
    class Mine(local):
        def __getattr__(self, name):
            return f"no {name}"

        def __setattr__(self, name, value):
            super().__setattr__(name, value * 2)

    data = Mine()
    data.x = 2
    assert (data.x, data.y) == (4, "no y")
    assert run(lambda: data.x) == "no x"


def test_weak_references_isinstance_and_signature(hub):
    data = local()
    assert weakref.ref(data)() is data
    assert isinstance(data, local)
    assert str(inspect.signature(local)) == "()"
    assert {data: 1}[data] == 1


def test_no_reference_is_lost_or_kept(hub):
    data, value = local(), Value()
    run(lambda: None)  # from now on the loop has its greenlets, which refer to main's
    before = sys.getrefcount(data), sys.getrefcount(value), sys.getrefcount(greenlet.getcurrent())

    def work():
        data.value = value
        data.other = value
        data.value  # noqa: B018
        del data.other
        vars(data)
        hasattr(data, "nothing")

    for _ in range(50):
        run(work)
        in_thread(work)
    work()
    del data.value
    settle()
    in_thread(lambda: None)
    gc.collect()
    after = sys.getrefcount(data), sys.getrefcount(value), sys.getrefcount(greenlet.getcurrent())
    assert after[0] == before[0]
    assert after[1] <= before[1] + 2  # greenlet frees what a thread left when the next one ends
    assert after[2] <= before[2] + 1


def test_the_interpreter_exits_with_locals_everywhere():
    out = output_of("""
        import threading
        import evergreen
        from evergreen.local import local

        class Value:
            def __del__(self):
                getattr(data, "x", None)

        data = local()
        data.x = Value()
        gate = evergreen.current.loop

        def work():
            data.x = Value()
            evergreen.sleep(100)

        tasks = [evergreen.spawn(work) for _ in range(3)]
        evergreen.sleep(0)
        thread = threading.Thread(target=setattr, args=(data, "x", Value()))
        thread.start()
        thread.join()
        print("done")
    """)
    assert out == "done\n"


def test_an_attribute_name_that_is_no_str_is_a_type_error():
    for call in (
        lambda: local().__getattribute__(5),
        lambda: local().__setattr__(5, 1),
        lambda: local().__delattr__(None),
    ):
        with pytest.raises(TypeError, match="attribute name must be string"):
            call()


def test_a_local_that_ends_while_an_exception_is_raised_leaves_the_exception_alone(hub):
    with pytest.raises(AttributeError, match="read-only"):
        local().__setattr__("__dict__", {})
