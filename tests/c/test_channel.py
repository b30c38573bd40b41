"""channel.c: rendezvous."""

import gc
import weakref

import pytest
from helpers import settle

from evergreen import Channel, TaskExit, sleep, spawn


class Boom(Exception):
    pass


def test_a_receiver_gets_what_a_sender_sends(hub):
    channel = Channel()
    task = spawn(channel.send, "value")
    assert channel.receive() == "value"
    assert task.result() is None


def test_send_waits_for_a_receiver(hub):
    channel = Channel()
    task = spawn(channel.send, 1)
    settle()
    assert task.waiting[0] == "channel send"
    assert channel.receive() == 1
    assert task.join(1)


def test_a_sender_with_a_receiver_waiting_does_not_wait(hub):
    channel = Channel()
    task = spawn(channel.receive)
    settle()
    channel.send("value")
    assert task.is_alive()
    assert task.result() == "value"


def test_values_arrive_in_the_order_they_were_sent(hub):
    channel = Channel()
    for number in range(20):
        spawn(channel.send, number)
    assert [channel.receive() for _ in range(20)] == list(range(20))


def test_receivers_are_served_in_the_order_they_came(hub):
    channel = Channel()
    tasks = [spawn(channel.receive) for _ in range(20)]
    settle()
    for number in range(20):
        channel.send(number)
    assert [task.result() for task in tasks] == list(range(20))


@pytest.mark.parametrize("value", [None, 0, (), (1, 2), StopIteration, Boom(), object()])
def test_any_value_can_be_sent(hub, value):
    channel = Channel()
    spawn(channel.send, value)
    assert channel.receive() is value


def test_a_pair_of_the_channel_and_an_exception_is_a_value_like_any_other(hub):
    channel = Channel()
    value = (channel, Boom())
    spawn(channel.send, value)
    assert channel.receive() is value


def test_send_exception_raises_in_the_receiver(hub):
    channel = Channel()
    value = Boom("instance")
    for args, check in [
        ((Boom,), lambda exc: exc.args == ()),
        ((Boom, "text"), lambda exc: exc.args == ("text",)),
        ((Boom, value), lambda exc: exc is value),
        ((value,), lambda exc: exc is value),
    ]:
        sender = spawn(channel.send_exception, *args)
        with pytest.raises(Boom) as info:
            channel.receive()
        assert check(info.value)
        sender.result()


def test_send_exception_takes_a_traceback(hub):
    channel = Channel()
    try:
        raise Boom
    except Boom as exc:
        sender = spawn(channel.send_exception, Boom, exc, exc.__traceback__)
    with pytest.raises(Boom) as info:
        channel.receive()
    assert info.value.__traceback__ is not None
    sender.join()


def test_an_exception_reaches_a_receiver_that_waits(hub):
    channel = Channel()
    task = spawn(channel.receive)
    settle()
    channel.send_exception(Boom)
    with pytest.raises(Boom):
        task.result()


@pytest.mark.parametrize("args", [(), (1,), (object,), ("text",), (Boom, None, "tb"), (Boom, 1, None, 2)])
def test_send_exception_refuses_what_is_no_exception(hub, args):
    with pytest.raises(TypeError):
        Channel().send_exception(*args)


def test_send_takes_one_value(hub):
    with pytest.raises(TypeError):
        Channel().send()
    with pytest.raises(TypeError):
        Channel().send(1, 2)


def test_iteration_receives_until_stop_iteration_is_sent(hub):
    channel = Channel()

    def send():
        for value in "abc":
            channel.send(value)
        channel.send_exception(StopIteration)

    spawn(send)
    assert list(channel) == ["a", "b", "c"]
    assert iter(channel) is channel


def test_a_killed_sender_has_sent_nothing(hub):
    channel = Channel()
    tasks = [spawn(channel.send, value) for value in "abc"]
    settle()
    tasks[1].kill()
    with pytest.raises(TaskExit):
        tasks[1].result()
    assert [channel.receive(), channel.receive()] == ["a", "c"]


def test_a_killed_receiver_has_received_nothing(hub):
    channel = Channel()
    tasks = [spawn(channel.receive) for _ in range(3)]
    settle()
    tasks[0].kill()
    channel.send("a")
    channel.send("b")
    with pytest.raises(TaskExit):
        tasks[0].result()
    assert [tasks[1].result(), tasks[2].result()] == ["a", "b"]


def test_a_sender_and_receiver_in_lockstep_alternate(hub):
    channel, order = Channel(), []

    def send():
        for number in range(5):
            channel.send(number)
            order.append(("sent", number))

    def receive():
        for _ in range(5):
            order.append(("received", channel.receive()))

    tasks = [spawn(send), spawn(receive)]
    for task in tasks:
        task.join()
    assert [number for what, number in order if what == "received"] == list(range(5))
    assert [number for what, number in order if what == "sent"] == list(range(5))


def test_values_are_freed_wherever_they_end(hub):
    class Value:
        pass

    channel, refs = Channel(), []

    def value():
        thing = Value()
        refs.append(weakref.ref(thing))
        return thing

    spawn(channel.send, value())
    channel.receive()  # received and dropped
    killed = spawn(channel.send, value())
    settle()
    killed.kill()
    killed.join()
    receiver = spawn(channel.receive)
    settle()
    channel.send(value())
    receiver.kill()
    receiver.join()  # given back, and never received
    del channel, receiver, killed
    settle()
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3


def test_a_channel_that_holds_itself_is_collected(hub):
    channel = Channel()
    ref = weakref.ref(channel)
    receiver = spawn(channel.receive)
    settle()
    channel.send(channel)
    receiver.kill()
    receiver.join()
    del channel, receiver
    gc.collect()
    assert ref() is None


def test_a_pipeline_of_a_hundred_tasks(hub):
    channels = [Channel() for _ in range(101)]

    def stage(here, there):
        for value in here:
            there.send(value + 1)
        there.send_exception(StopIteration)

    for here, there in zip(channels, channels[1:], strict=False):
        spawn(stage, here, there)

    def feed():
        for value in range(10):
            channels[0].send(value)
            sleep(0)
        channels[0].send_exception(StopIteration)

    spawn(feed)
    assert list(channels[-1]) == [value + 100 for value in range(10)]


def test_empty_keyword_arguments_are_none(hub):
    nothing = {}
    task = spawn(Channel(*(), **nothing).receive)
    settle()
    assert task.is_alive()
    task.kill()
    task.join()
