"""channel.c: rendezvous."""

import gc
import inspect
import sys
import threading
import weakref

import pytest
from helpers import Boom, settle

from evergreen import Channel, ChannelClosed, EventLoop, TaskExit, sleep, spawn


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


# ---- close -------------------------------------------------------------------------------------------


def test_close_ends_the_iteration_of_all_who_receive(hub):
    channel = Channel()
    tasks = [spawn(list, channel) for _ in range(2)]
    settle()
    channel.send(1)
    channel.send(2)
    assert not channel.closed
    channel.close()
    assert channel.closed
    assert sorted(task.result() for task in tasks) == [[1], [2]]


def test_sending_and_receiving_on_a_closed_channel_raise(hub):
    channel = Channel()
    channel.close()
    channel.close()
    for call in (channel.receive, lambda: channel.send(1), lambda: channel.send_exception(Boom)):
        with pytest.raises(ChannelClosed):
            call()
    assert list(channel) == []


def test_close_wakes_those_who_wait_and_their_values_are_freed(hub):
    class Value:
        pass

    value = Value()
    ref = weakref.ref(value)
    channel = Channel()
    senders = [spawn(channel.send, value), spawn(channel.send_exception, Boom)]
    del value
    settle()
    channel.close()
    for task in senders:
        with pytest.raises(ChannelClosed):
            task.result()
    del task, senders
    gc.collect()
    assert ref() is None
    channel = Channel()
    receivers = [spawn(channel.receive) for _ in range(3)]
    settle()
    channel.close()
    for task in receivers:
        with pytest.raises(ChannelClosed):
            task.result()


def test_a_value_handed_over_before_the_close_is_received(hub):
    channel = Channel()
    receiver = spawn(channel.receive)
    settle()
    channel.send(1)
    channel.close()
    assert receiver.result() == 1


def test_a_value_handed_to_one_who_is_killed_is_still_there_after_the_close(hub):
    channel = Channel()
    receivers = [spawn(channel.receive) for _ in range(2)]
    settle()
    channel.send(1)
    channel.send(2)
    channel.close()
    for task in receivers:
        task.kill()
    for task in receivers:
        task.join()
    assert list(channel) == [1, 2]


def test_those_who_were_woken_by_close_can_be_killed(hub):
    channel = Channel()
    receiver, other = spawn(channel.receive), Channel()
    sender = spawn(other.send, 1)
    settle()
    channel.close()
    other.close()
    for task in (receiver, sender):
        task.kill()
    for task in (receiver, sender):
        with pytest.raises(TaskExit):
            task.result()


def test_a_channel_closed_that_was_sent_is_received(hub):
    channel = Channel()
    spawn(channel.send_exception, ChannelClosed("of another one"))
    with pytest.raises(ChannelClosed, match="of another one"):
        channel.receive()
    spawn(channel.send_exception, ChannelClosed("of another one"))
    with pytest.raises(ChannelClosed, match="of another one"):
        next(channel)
    assert issubclass(ChannelClosed, RuntimeError)


def test_an_iteration_that_was_closed_stays_so(hub):
    channel = Channel()
    channel.close()
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(channel)


def test_values_that_went_through_many_hands_keep_their_order(hub):
    channel = Channel()
    receivers = [spawn(channel.receive) for _ in range(3)]
    settle()
    channel.send("first")
    channel.send("second")
    receivers[0].kill()  # the third has the first now
    receivers[1].kill()
    receivers[2].kill()
    settle()
    spawn(channel.send, "third")
    assert [channel.receive() for _ in range(3)] == ["first", "second", "third"]


def test_a_channel_between_threads_loops_and_tasks(hub):
    channel, got = Channel(), []

    def produce(values):
        for value in values:
            channel.send(value)

    def consume():
        got.extend(channel)

    def with_loop(function, *args):
        loop = EventLoop()
        spawn(function, *args).result(30)
        loop.destroy()

    producers = [threading.Thread(target=produce, args=(range(0, 200),))]
    producers += [threading.Thread(target=with_loop, args=(produce, range(200, 400)))]
    consumers = [threading.Thread(target=consume), threading.Thread(target=with_loop, args=(consume,))]
    for thread in producers + consumers:
        thread.start()
    mine = spawn(consume)
    spawn(produce, range(400, 600)).result(30)
    while any(thread.is_alive() for thread in producers):
        sleep(0.001)
    channel.close()
    mine.result(30)
    for thread in consumers:
        thread.join(30)
    assert sorted(got) == list(range(600))


def test_no_reference_is_lost_or_kept(hub):
    channel, value = Channel(), Boom()
    before = sys.getrefcount(channel), sys.getrefcount(value)
    for _ in range(20):
        receivers = [spawn(channel.receive) for _ in range(2)]
        settle()
        channel.send(value)
        receivers[0].kill()
        receivers[1].join()
        sender = spawn(channel.send, value)
        settle()
        sender.kill()
        settle()
        spawn(channel.send, value)
        assert channel.receive() is value
    del receivers, sender
    gc.collect()
    assert (sys.getrefcount(channel), sys.getrefcount(value)) == before


def test_an_idle_one_is_small():
    assert sys.getsizeof(Channel()) <= 120


def test_signatures():
    signatures = {
        Channel: "()",
        Channel.send: "(self, value, /)",
        Channel.send_exception: "(self, exc_type, exc_value=None, exc_tb=None, /)",
        Channel.receive: "(self, /)",
        Channel.close: "(self, /)",
    }
    assert {method: str(inspect.signature(method)) for method in signatures} == signatures


def test_empty_keyword_arguments_are_none(hub):
    nothing = {}
    task = spawn(Channel(*(), **nothing).receive)
    settle()
    assert task.is_alive()
    task.kill()
    task.join()
