"""_evergreen_c/stream.c, wire.c, input.c: reading, writing, and how streams end."""

import contextlib
import gc
import os
import random
import re
import socket
import sys
import threading
import warnings

import pytest
from helpers import in_thread, native, output_of, pass_time, settle

import evergreen
from evergreen import spawn
from evergreen.io.pipe import PipeError, PipeStream
from evergreen.io.stream import IncompleteReadError
from evergreen.timeout import Timeout, fail_after


@pytest.fixture
def pair(hub):
    """A stream, and the socket at its other end."""
    ours, theirs = socket.socketpair()
    stream = PipeStream()
    stream.open(ours.detach())
    theirs.settimeout(10)
    yield stream, theirs
    theirs.close()
    stream.close()
    poll()


def poll():
    """Have the loop look at its descriptors, until nothing more happens."""
    for _ in range(5):
        evergreen.sleep(0.0005)
    settle()


def fill(stream):
    """Write until the kernel takes no more; return how much was written."""
    stream.high_water = 1 << 30
    size = 0
    while stream.write(b"x" * 65536):
        size += 65536
    return size + 65536


def drain(peer, size):
    """Take so many bytes from a socket, in a native thread; return them when joined."""
    got = bytearray()

    def work():
        while len(got) < size and (data := peer.recv(65536)):
            got.extend(data)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, got


# ---- read ---------------------------------------------------------------------------------------


def test_read_gives_what_has_come(pair):
    stream, peer = pair
    peer.send(b"hello")
    assert stream.read(100) == b"hello"


def test_read_gives_no_more_than_asked(pair):
    stream, peer = pair
    peer.send(b"hello")
    assert [stream.read(2), stream.read(2), stream.read(2)] == [b"he", b"ll", b"o"]


def test_read_waits(pair):
    stream, peer = pair
    task = spawn(stream.read, 10)
    settle()
    assert task.is_alive() and task.waiting[:2] == ("stream read", stream)
    peer.send(b"now")
    assert task.result() == b"now"


def test_read_gives_nothing_at_the_end_again_and_again(pair):
    stream, peer = pair
    peer.send(b"last")
    peer.close()
    assert [stream.read(10), stream.read(10), stream.read(10)] == [b"last", b"", b""]
    assert not stream.closed


def test_read_without_a_size_gives_everything_until_the_end(pair):
    stream, peer = pair
    data = os.urandom(300_000)
    thread = threading.Thread(target=lambda: (peer.sendall(data), peer.shutdown(socket.SHUT_WR)))
    thread.start()
    assert stream.read() == data
    assert stream.read() == b""
    thread.join()


def test_read_of_zero_bytes_does_not_wait(pair):
    assert pair[0].read(0) == b""


@pytest.mark.parametrize("size", [16383, 16384, 65535, 65536, 65537, 69632, 69633, 200_000])
def test_large_pieces_come_whole(pair, size):
    stream, peer = pair
    data = os.urandom(size)
    thread = threading.Thread(target=peer.sendall, args=(data,))
    thread.start()
    got = b""
    while len(got) < size:
        got += stream.read(65536)
    assert got == data
    thread.join()


def test_reads_by_different_tasks_take_turns(pair):
    stream, peer = pair
    tasks = []
    for _ in range(3):
        tasks.append(spawn(stream.read_exactly, 3))
        settle()  # one after the other, also where the machine is slow
    assert tasks[1].waiting[0] == "stream read turn"
    for byte in b"aaabbbccc":
        peer.send(bytes([byte]))
        poll()
    assert [task.result() for task in tasks] == [b"aaa", b"bbb", b"ccc"]


def test_a_reader_killed_in_the_queue_gives_its_turn_to_the_next(pair):
    stream, peer = pair
    first, second, third = (spawn(stream.read, 1) for _ in range(3))
    settle()
    peer.send(b"a")
    assert first.result() == b"a"  # the second has been woken, and has not run yet
    second.kill()
    peer.send(b"b")
    assert third.result() == b"b"


def test_readinto_fills_a_buffer(pair):
    stream, peer = pair
    buffer = bytearray(8)
    peer.send(b"hello")
    assert stream.readinto(buffer) == 5
    assert buffer == b"hello\0\0\0"
    peer.close()
    assert stream.readinto(buffer) == 0


def test_readinto_receives_much_straight_into_the_buffer(pair):
    stream, peer = pair
    data, buffer = os.urandom(300_000), bytearray(300_000)
    thread = threading.Thread(target=peer.sendall, args=(data,))
    view, got = memoryview(buffer), 0
    task = spawn(stream.readinto, view)
    settle()
    thread.start()
    got = task.result()
    while got < len(data):
        got += stream.readinto(view[got:])
    assert buffer == data
    thread.join()


def test_readinto_needs_a_writable_buffer(pair):
    with pytest.raises((TypeError, BufferError)):
        pair[0].readinto(b"fixed")


# ---- read_exactly, read_bytes -------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5, 16384, 32767, 32768, 100_000, 1_000_000])
def test_read_exactly_gathers_what_comes_in_pieces(pair, size):
    stream, peer = pair
    data = os.urandom(size)

    def send():
        for i in range(0, size, 30_011):
            peer.sendall(data[i : i + 30_011])
        peer.sendall(b"more")

    thread = threading.Thread(target=send)
    thread.start()
    assert stream.read_exactly(size) == data
    assert stream.read_exactly(4) == b"more"
    thread.join()


def test_read_exactly_tells_what_there_was_before_the_end(pair):
    stream, peer = pair
    peer.send(b"abc")
    peer.close()
    with pytest.raises(IncompleteReadError) as caught:
        stream.read_exactly(10)
    assert (caught.value.partial, caught.value.expected) == (b"abc", 10)
    assert isinstance(caught.value, PipeError) and isinstance(caught.value, EOFError)


@pytest.mark.parametrize("sent", [5, 20_000, 60_000])
@pytest.mark.parametrize("how", ["kill", "timeout"])
def test_a_read_that_is_ended_from_outside_loses_nothing(pair, sent, how):
    stream, peer = pair
    data = os.urandom(sent)
    peer.send(b"x" * 100)  # so that the result's own memory is received into
    task = spawn(stream.read_exactly, 100_100) if how == "kill" else None
    if task:
        settle()
        peer.sendall(data)
        poll()
        task.kill()
        task.join()
    else:
        peer.sendall(data)
        with Timeout(0.01, False):
            stream.read_exactly(100_100)
    assert stream.read_exactly(sent + 100) == b"x" * 100 + data


def test_readinto_that_is_killed_with_data_in_its_buffer_loses_nothing(pair):
    stream, peer = pair
    loop = evergreen.current.loop
    task = spawn(stream.readinto, bytearray(50_000))
    settle()
    peer.sendall(b"y" * 30_000)
    loop.call_soon(task.kill)
    pass_time()
    loop.call_soon(task.kill)
    task.join()
    try:
        got = task.result()
    except evergreen.TaskExit:
        got = 0
    assert got + len(stream.read_exactly(30_000 - got)) == 30_000


def test_read_bytes_closes_the_stream_at_its_end(pair):
    stream, peer = pair
    peer.send(b"abcde")
    peer.close()
    assert stream.read_bytes(3) == b"abc"
    assert stream.read_bytes(3) == b""
    assert stream.closed
    assert stream.read(10) == b"de"  # not lost
    with pytest.raises(PipeError, match="closed"):
        stream.read_bytes(1)


@pytest.mark.parametrize("size", [0, -1])
def test_read_bytes_needs_a_positive_size(pair, size):
    with pytest.raises(ValueError, match="positive"):
        pair[0].read_bytes(size)


def test_read_exactly_refuses_a_negative_size(pair):
    with pytest.raises(ValueError, match="negative"):
        pair[0].read_exactly(-1)


# ---- lines, delimiters, patterns ----------------------------------------------------------------


def test_read_until_gives_the_delimiter_too(pair):
    stream, peer = pair
    peer.send(b"one\r\ntwo\r\nth")
    assert stream.read_until(b"\r\n") == b"one\r\n"
    assert stream.read_until(b"\r\n") == b"two\r\n"
    task = spawn(stream.read_until, b"\r\n")
    settle()
    peer.send(b"ree\r")
    poll()
    assert task.is_alive()
    peer.send(b"\n!")
    assert task.result() == b"three\r\n"
    assert stream.read(5) == b"!"


def test_read_until_takes_bytes_one_at_a_time(pair):
    stream, peer = pair
    task = spawn(stream.read_until, b"--end--")
    for byte in b"some--en--end--":
        peer.send(bytes([byte]))
        poll()
    assert task.result() == b"some--en--end--"


def test_read_until_at_the_end_closes_and_leaves_the_rest(pair):
    stream, peer = pair
    peer.send(b"no end")
    peer.close()
    assert stream.read_until(b"\n") == b""
    assert stream.closed and stream.read() == b"no end"


def test_read_until_has_a_limit_and_leaves_the_data(pair):
    stream, peer = pair
    peer.send(b"x" * 100 + b"\n")
    with pytest.raises(PipeError, match="first 50 bytes") as caught:
        stream.read_until(b"\n", 50)
    assert caught.value.errno == 90
    assert stream.read_until(b"\n", limit=101) == b"x" * 100 + b"\n"


def test_a_peer_without_delimiters_does_not_fill_the_memory(pair):
    stream, peer = pair
    thread = threading.Thread(target=flood, args=(peer,))
    thread.start()
    with pytest.raises(PipeError, match="first 1000000 bytes"):
        stream.read_until(b"\n", 1_000_000)
    stream.close()
    thread.join()


def flood(peer):
    with contextlib.suppress(OSError):
        while True:
            peer.send(b"x" * 65536)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_positive(pair, limit):
    with pytest.raises(ValueError, match="limit"):
        pair[0].read_until(b"\n", limit=limit)


def test_bad_arguments_of_read_until(pair):
    stream, _ = pair
    with pytest.raises(ValueError, match="empty"):
        stream.read_until(b"")
    with pytest.raises(TypeError):
        stream.read_until("text")
    with pytest.raises(TypeError):
        stream.read_until()
    with pytest.raises(TypeError):
        stream.read_until(b"x", 1, 2)
    with pytest.raises(TypeError):
        stream.read_until(b"x", maximum=1)


def test_lines_by_iteration_and_the_last_without_an_end(pair):
    stream, peer = pair
    peer.send(b"one\n\nthree")
    peer.close()
    assert list(stream) == [b"one\n", b"\n", b"three"]
    assert stream.readline() == b""
    assert not stream.closed


def test_readline_has_a_limit(pair):
    stream, peer = pair
    peer.send(b"0123456789\n")
    with pytest.raises(PipeError, match="first 5 bytes"):
        stream.readline(5)
    assert stream.readline(limit=11) == b"0123456789\n"


def test_read_until_regex(pair):
    stream, peer = pair
    peer.send(b"key: 12;other: 3")
    assert stream.read_until_regex(rb"\d+;") == b"key: 12;"
    task = spawn(stream.read_until_regex, re.compile(rb"\d+;"))
    settle()
    peer.send(b"45;")
    assert task.result() == b"other: 345;"
    peer.send(b"x" * 20)
    with pytest.raises(PipeError, match="first 10 bytes"):
        stream.read_until_regex(rb";", limit=10)
    peer.close()
    assert stream.read_until_regex(rb";") == b""
    assert stream.closed


def test_a_bad_pattern_leaves_the_stream_usable(pair):
    stream, peer = pair
    peer.send(b"data")
    with pytest.raises(re.error):
        stream.read_until_regex(b"(")
    with pytest.raises(TypeError):
        stream.read_until_regex("text")
    assert stream.read(10) == b"data"


# ---- write --------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"bytes", bytearray(b"array"), memoryview(b"view"), b""])
def test_write_takes_anything_like_bytes(pair, data):
    stream, peer = pair
    assert stream.write(data) is True
    stream.write(b"!")
    assert peer.recv(10) == bytes(data) + b"!"


@pytest.mark.parametrize("data", ["text", 5, None, ["a"]])
def test_write_refuses_anything_else(pair, data):
    with pytest.raises(TypeError):
        pair[0].write(data)
    with pytest.raises(TypeError):
        PipeStream().write(data)


def test_write_says_whether_the_kernel_has_everything(pair):
    stream, peer = pair
    size = fill(stream)
    assert stream.unsent > 0
    assert stream.write(b"end") is False
    thread, got = drain(peer, size + 3)
    stream.flush()
    assert stream.unsent == 0
    thread.join()
    assert got == b"x" * size + b"end"
    assert stream.write(b"more") is True


def test_a_writer_waits_above_the_high_water_mark(pair):
    stream, peer = pair
    size = fill(stream)
    stream.high_water = stream.unsent + 10
    assert stream.write(b"0123456789") is False
    task = spawn(stream.write, b"!")
    settle()
    assert task.waiting[0] == "stream write"
    thread, got = drain(peer, size + 11)
    task.join()
    stream.flush()
    thread.join()
    assert got[-11:] == b"0123456789!"


def test_a_buffer_may_change_after_write(pair):
    stream, peer = pair
    size = fill(stream)
    buffer = bytearray(b"before")
    stream.write(buffer)
    buffer[:] = b"after!"
    buffer.clear()  # nobody holds it
    thread, got = drain(peer, size + 6)
    stream.flush()
    thread.join()
    assert got[-6:] == b"before"


def test_a_writer_that_is_killed_has_written_everything(pair):
    stream, peer = pair
    size = fill(stream)
    stream.high_water = 0
    task = spawn(stream.write, b"all of it")
    settle()
    task.kill()
    task.join()
    thread, got = drain(peer, size + 9)
    stream.flush()
    thread.join()
    assert got.endswith(b"xall of it")


def test_writes_of_different_tasks_do_not_mix(pair):
    stream, peer = pair
    stream.high_water = 1000
    tasks = [spawn(stream.write, bytes([65 + i]) * 200_000) for i in range(5)]
    thread, got = drain(peer, 1_000_000)
    for task in tasks:
        task.join()
    stream.flush()
    thread.join()
    assert re.fullmatch(rb"(?:([A-E])\1{199999}){5}", got)
    assert set(got) == set(b"ABCDE")


def test_writelines_writes_all_in_order(pair):
    stream, peer = pair
    assert stream.writelines([b"one ", bytearray(b"two "), b"", memoryview(b"three")]) is True
    assert peer.recv(100) == b"one two three"
    size = fill(stream)
    assert stream.writelines(iter([b"four ", bytearray(b"five")])) is False
    thread, got = drain(peer, size + 9)
    stream.flush()
    thread.join()
    assert got.endswith(b"xfour five")
    with pytest.raises(TypeError):
        stream.writelines([b"ok", "text"])
    with pytest.raises(TypeError):
        stream.writelines(5)


def test_writelines_of_more_buffers_than_one_call_takes(pair):
    stream, peer = pair
    thread, got = drain(peer, 5000 * 5)
    stream.writelines([b"%05d" % i for i in range(5000)])
    stream.flush()
    thread.join()
    assert got == b"".join(b"%05d" % i for i in range(5000))


def test_a_peer_that_is_gone_is_a_broken_pipe(pair):
    stream, peer = pair
    peer.close()
    with pytest.raises(BrokenPipeError) as caught:
        stream.write(b"x")
    assert isinstance(caught.value, PipeError)
    with pytest.raises(BrokenPipeError):
        stream.write(b"x")
    with pytest.raises(BrokenPipeError):
        stream.flush()


def test_an_error_of_sending_later_is_raised_where_one_waits(pair):
    stream, peer = pair
    fill(stream)
    flusher = spawn(stream.flush)
    settle()
    peer.close()
    with pytest.raises(OSError) as caught:
        flusher.result()
    assert isinstance(caught.value, (BrokenPipeError, ConnectionResetError))
    with pytest.raises(PipeError):
        stream.write(b"x")


def test_shutdown_ends_one_side(pair):
    stream, peer = pair
    size = fill(stream)
    task = spawn(stream.shutdown)
    settle()
    assert task.is_alive()
    thread, got = drain(peer, size + 1)
    task.join()
    thread.join()
    assert len(got) == size
    peer.send(b"still there")
    assert stream.read(100) == b"still there"
    with pytest.raises(BrokenPipeError):
        stream.write(b"x")
    stream.shutdown()  # harmless


def test_a_killed_shutdown_goes_on(pair):
    stream, peer = pair
    size = fill(stream)
    task = spawn(stream.shutdown)
    settle()
    task.kill()
    task.join()
    thread, got = drain(peer, size + 1)
    stream.shutdown()  # waits for the one that is under way
    thread.join()
    assert len(got) == size


def echo_much(peer):
    """Give back more than was taken, and take no more before that; in a native thread."""

    def work():
        with contextlib.suppress(OSError):
            while data := peer.recv(65536):
                peer.sendall(data * 4)

    return native(work)


def test_a_peer_that_is_stuck_in_its_own_write_does_not_hold_up_shutdown_and_close(pair):
    stream, peer = pair
    call = echo_much(peer)
    with fail_after(10):
        while stream.write(bytes(65536)):
            pass
        stream.shutdown()
        stream.close()
        call.get()  # it was read from until what was unsent was sent
    poll()


def test_a_peer_that_is_stuck_in_its_own_write_does_not_hold_up_the_end_of_a_with_block(pair):
    stream, peer = pair
    call = echo_much(peer)
    with fail_after(10):
        with stream:
            fill(stream)
            assert stream.unsent
        call.get()
    poll()


def test_what_the_peer_sent_is_read_after_a_shutdown_that_met_it(pair):
    stream, peer = pair
    fill(stream)
    thread = threading.Thread(target=peer.sendall, args=(bytes(1 << 20),))
    thread.start()
    stream.shutdown()  # not waited for: the peer is to be read from
    with pytest.raises(BrokenPipeError):
        stream.write(b"x")
    assert len(stream.read_exactly(1 << 20)) == 1 << 20
    thread.join()


def test_writers_and_readers_give_others_their_turn(pair):
    stream, peer = pair
    peer.setblocking(False)
    ticks = []
    ticker = spawn(lambda: [ticks.append(evergreen.sleep(0.001)) for _ in range(3)])
    for _ in range(200_000):
        if not ticker.is_alive():
            break
        stream.write(b"x")
        peer.recv(10)
    assert len(ticks) == 3


# ---- closing ------------------------------------------------------------------------------------


def test_everything_on_a_closed_stream_is_ebadf(pair):
    stream, _ = pair
    stream.close()
    stream.close()
    calls = [
        lambda: stream.read(1),
        lambda: stream.readinto(bytearray(1)),
        lambda: stream.read_exactly(1),
        lambda: stream.read_bytes(1),
        lambda: stream.read_until(b"x"),
        lambda: stream.readline(),
        lambda: next(stream),
        lambda: stream.write(b"x"),
        lambda: stream.writelines([b"x"]),
        lambda: stream.flush(),
        lambda: stream.shutdown(),
        lambda: stream.fileno(),
        lambda: stream.sockname,
        lambda: stream.open(0),
    ]
    for call in calls:
        with pytest.raises(PipeError, match="closed") as caught:
            call()
        assert caught.value.errno == 9
    assert "closed" in repr(stream)


def test_everything_on_a_stream_that_is_not_connected_is_enotconn(hub):
    stream = PipeStream()
    for call in (lambda: stream.read(1), stream.flush, stream.shutdown, stream.fileno):
        with pytest.raises(PipeError, match="not connected") as caught:
            call()
        assert caught.value.errno == 107
    assert stream.write(b"early") is False
    assert "not connected" in repr(stream)


def test_close_wakes_who_waits(pair):
    stream, _ = pair
    fill(stream)
    reader, second, flusher = spawn(stream.read, 1), spawn(stream.read, 1), spawn(stream.flush)
    settle()
    stream.close()
    for task in (reader, second, flusher):
        with pytest.raises(PipeError, match="closed"):
            task.result()


def test_close_while_read_until_waits_gives_nothing_as_in_0_2(pair):
    stream, _ = pair
    task = spawn(stream.read_until, b"\n")
    settle()
    stream.close()
    assert task.result() == b""


def test_what_was_written_is_sent_after_close(pair):
    stream, peer = pair
    size = fill(stream)
    stream.close()
    assert evergreen.current.loop.stats()["streams"] == 1  # it lingers
    thread, got = drain(peer, size + 1)
    evergreen.current.loop.run()
    thread.join()
    assert len(got) == size


def test_abort_drops_what_is_unsent(pair):
    stream, peer = pair
    size = fill(stream)
    stream.abort()
    poll()
    assert evergreen.current.loop.stats()["streams"] == 0
    thread, got = drain(peer, size)
    thread.join()
    assert len(got) < size


def test_a_with_block_flushes_and_closes(hub):
    ours, theirs = socket.socketpair()
    stream = PipeStream()
    stream.open(ours.detach())
    with theirs, stream as same:
        assert same is stream
        size = fill(stream)
        thread, got = drain(theirs, size + 1)
        stream.__exit__(None, None, None)
        assert stream.closed
        thread.join()
        assert len(got) == size


def test_a_dropped_stream_is_closed_with_a_warning(hub):
    ours, theirs = socket.socketpair()
    stream = PipeStream()
    stream.open(ours.detach())
    reader = spawn(lambda stream: stream.read(1), stream)
    settle()
    reader.kill()
    reader.join()
    del reader
    with pytest.warns(ResourceWarning, match="unclosed <PipeStream"):
        del stream
        gc.collect()
    theirs.settimeout(10)
    assert theirs.recv(1) == b""
    theirs.close()
    poll()


def test_a_stream_dropped_in_a_cycle_is_collected(hub):
    ours, theirs = socket.socketpair()
    stream = PipeStream()
    stream.open(ours.detach())
    stream.me = stream
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del stream
        gc.collect()
    assert theirs.recv(1) == b""
    theirs.close()
    poll()


def test_a_stream_dropped_by_another_thread_is_closed_by_its_own(hub):
    ours, theirs = socket.socketpair()
    box = [PipeStream()]
    box[0].open(ours.detach())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        in_thread(box.clear)
    poll()
    assert theirs.recv(1) == b""
    theirs.close()
    assert hub.stats()["streams"] == 0


def test_a_stream_dropped_by_another_thread_with_data_unsent_and_then_its_loop_is_destroyed():
    script = """
        import socket, threading
        import evergreen
        from evergreen.io.pipe import PipeStream

        for again in range(3):
            loop = evergreen.EventLoop.current()
            ours, theirs = socket.socketpair()
            box = [PipeStream()]
            box[0].high_water = 1 << 30
            box[0].open(ours.detach())
            assert not box[0].write(bytes(1 << 24))
            thread = threading.Thread(target=box.clear)
            thread.start()
            thread.join()
            loop.destroy()
        print("end")
    """
    assert output_of(script, options=["-W", "ignore"]) == "end\n"


def test_a_stream_dropped_by_another_thread_is_the_parents_in_a_forked_child():
    script = """
        import os, socket, threading
        import evergreen
        from evergreen.io.pipe import PipeStream

        evergreen.sleep(0)
        ours, theirs = socket.socketpair()
        box = [PipeStream()]
        box[0].high_water = 1 << 30
        box[0].open(ours.detach())
        assert not box[0].write(bytes(1 << 20))
        thread = threading.Thread(target=box.clear)
        thread.start()
        thread.join()
        if os.fork() == 0:
            spare = os.open("/dev/null", os.O_RDONLY)  # may have the number of its descriptor
            evergreen.sleep(0.01)
            os.fstat(spare)
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        theirs.close()
        evergreen.sleep(0.01)
    """
    assert output_of(script, options=["-W", "ignore"]) == "7\n"


# ---- Python that runs in the middle -------------------------------------------------------------


class Meddler:
    """A buffer that does something when it is asked for its bytes; with a __buffer__() since 3.12."""

    def __init__(self, action, data=b"x"):
        self.action, self.data = action, data

    def __buffer__(self, flags):
        self.action()
        return memoryview(self.data)


needs_buffer = pytest.mark.skipif(sys.version_info < (3, 12), reason="Python has __buffer__() since 3.12")


@needs_buffer
@pytest.mark.parametrize("name", ["write", "writelines", "unread", "_queue"])
@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_buffer_that_closes_the_stream_it_is_written_to(pair, name, end):
    stream, _ = pair

    def action():
        getattr(stream, end)()
        poll()  # what it was made of is freed

    data = Meddler(action)
    with pytest.raises(PipeError, match="closed"):
        getattr(stream, name)([data] if name == "writelines" else data)


@needs_buffer
def test_a_list_of_buffers_that_changes_while_it_is_written(pair):
    stream, peer = pair
    buffers = []
    buffers += [Meddler(buffers.clear), b"z", bytearray(b"!")]
    stream.writelines(buffers)
    assert peer.recv(10) == b"xz!"


@needs_buffer
def test_a_list_of_descriptors_that_changes_while_it_is_sent(hub):
    class Descriptor:
        def fileno(self):
            descriptors.clear()
            return 0

    ours, theirs = PipeStream.pair(ipc=True)
    with ours, theirs:
        descriptors = []
        descriptors += [Descriptor(), 0, 0]
        ours.send_fds(b"x", descriptors)
        data, got = theirs.recv_fds(1, 10)
        assert (data, len(got)) == (b"x", 3)
        for fd in got:
            os.close(fd)


@needs_buffer
def test_a_buffer_that_connects_the_stream_it_is_written_to_before(hub):
    ours, theirs = socket.socketpair()
    with theirs, PipeStream() as stream:
        stream.write(b"early ")
        stream.write(Meddler(lambda: stream.open(ours.detach()), b"late"))
        stream.flush()
        assert theirs.recv(100) == b"early late"
    poll()


def test_a_stream_without_memory_gives_its_own_bytes_or_none():
    script = """
        import socket
        import _testcapi
        import evergreen
        from evergreen.io.pipe import PipeStream

        def pair():
            ours, theirs = socket.socketpair()
            stream = PipeStream()
            stream.open(ours.detach())
            return stream, theirs

        def read(stream, how, size):
            return {"read": stream.read, "exactly": stream.read_exactly}[how](size)

        evergreen.sleep(0)
        for how in "read", "exactly":
            for size in 5000, 40000:
                for ready in False, True:
                    for k in range(12):
                        (a, a_peer), (b, b_peer) = pair(), pair()
                        if ready:  # so that they receive by themselves, and much
                            a_peer.sendall(b"A" * 20000)
                            a.read_exactly(20000)
                        data = bytes(range(256)) * 160
                        a_peer.sendall(data[:size])
                        b_peer.sendall(b"\\xff" * size)
                        got = b""
                        _testcapi.set_nomemory(k, k + 1)
                        try:
                            got += read(a, how, size - 100)
                        except MemoryError:
                            pass
                        finally:
                            _testcapi.remove_mem_hooks()
                        other = b.read(size)
                        assert set(other) == {255}, (how, size, ready, k)
                        a_peer.close()
                        try:
                            while data_here := a.read(size):
                                got += data_here
                        except MemoryError:
                            pass  # some was lost, and nothing that came after it is given
                        assert data.startswith(got), (how, size, ready, k, got[:50])
                        a.close(), b.close(), b_peer.close()
        print("end")
    """
    pytest.importorskip("_testcapi")
    assert output_of(script, options=["-W", "ignore"]) == "end\n"


def test_another_thread_may_not_use_a_stream(pair):
    stream, _ = pair
    for call in (lambda: stream.read(1), lambda: stream.write(b"x"), stream.close, stream.abort):
        with pytest.raises(RuntimeError, match="another thread"):
            in_thread(call)
    assert not stream.closed


@pytest.mark.parametrize("name", ["file", "/dev/null"])
def test_what_cannot_be_waited_for_is_no_stream(hub, tmp_path, name):
    path = tmp_path / name
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(PipeError) as caught:
        PipeStream().open(fd)
    assert caught.value.errno == 22
    os.close(fd)  # it is still ours


def test_a_bad_descriptor_is_refused(hub):
    with pytest.raises(PipeError):
        PipeStream().open(9999)
    poll()
    assert hub.stats()["streams"] == 0


def test_destroying_the_loop_closes_its_streams(hub):
    ours, theirs = socket.socketpair()
    stream = PipeStream()
    stream.open(ours.detach())
    reader = spawn(stream.read, 1)
    settle()
    fill(stream)
    hub.destroy()
    assert not reader.is_alive()
    assert stream.closed
    with pytest.raises(PipeError, match="closed"):
        stream.read(1)
    theirs.settimeout(10)
    while theirs.recv(1 << 20):
        pass
    theirs.close()


# ---- the loop -----------------------------------------------------------------------------------


def test_an_open_stream_that_nobody_waits_for_does_not_keep_the_loop(pair):
    stream, peer = pair
    peer.send(b"x")
    stream.read(1)  # from now on it receives
    evergreen.current.loop.run()


def test_a_reader_keeps_the_loop(pair):
    stream, peer = pair
    task = spawn(stream.read, 1)
    thread = threading.Timer(0.02, peer.send, (b"x",))
    thread.start()
    evergreen.current.loop.run()
    assert task.result(0) == b"x"
    thread.join()


def test_nobody_who_could_wake_a_task_is_a_deadlock_with_an_idle_stream(pair):
    stream, peer = pair
    peer.send(b"x")
    stream.read(1)
    with pytest.raises(evergreen.Deadlock):
        evergreen.Channel().receive()


def test_receiving_stops_when_nobody_reads(pair):
    stream, peer = pair
    peer.send(b"x")
    stream.read(1)
    peer.setblocking(False)
    size = 0
    for _ in range(100):
        with contextlib.suppress(BlockingIOError):
            while True:
                size += peer.send(b"x" * 65536)
        poll()
    assert size < 4 << 20
    peer.settimeout(10)
    thread = threading.Thread(target=peer.shutdown, args=(socket.SHUT_WR,))
    thread.start()
    assert len(stream.read()) == size
    thread.join()


# ---- fork ---------------------------------------------------------------------------------------


def test_a_forked_child_may_use_a_stream_and_leaves_the_parents_data_alone():
    out = output_of("""
        import os, socket, evergreen
        from evergreen.io.pipe import PipeStream
        a, b = socket.socketpair()
        stream = PipeStream(); stream.open(a.detach())
        waiting = evergreen.spawn(stream.read, 5)
        evergreen.sleep(0.001)
        pid = os.fork()
        if pid == 0:
            evergreen.sleep(0.02)      # turns of the loop: nothing may be taken from the parent
            stream.write(b"child")
            stream.close()
            evergreen.sleep(0.001)
            os._exit(evergreen.current.loop.stats()["streams"])
        assert os.waitpid(pid, 0)[1] == 0
        assert b.recv(10) == b"child"
        b.send(b"hello")
        print(waiting.result(), stream.closed)
        stream.close()
    """)
    assert out == "b'hello' False\n"


def test_a_reader_kept_in_a_forked_child_goes_on_there():
    out = output_of("""
        import os, socket, evergreen
        from evergreen.io.pipe import PipeStream
        a, b = socket.socketpair()
        stream = PipeStream(); stream.open(a.detach())
        reader = evergreen.spawn(stream.read, 5)
        evergreen.sleep(0.001)
        pid = evergreen.fork(keep_tasks=True)
        if pid == 0:
            b.send(b"child")
            print(reader.result(), flush=True)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        reader.kill()
        stream.close()
    """)
    assert out == "b'child'\n"


# ---- all of it at once --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_no_byte_is_lost_or_doubled_whatever_is_killed_when(pair, seed):
    chance = random.Random(seed)
    stream, peer = pair
    data = chance.randbytes(3_000_000)

    def send():
        sent = 0
        while sent < len(data):
            sent += peer.send(data[sent : sent + chance_of_sender.choice((1, 1000, 50_000, 200_000))])
        peer.shutdown(socket.SHUT_WR)

    def read():
        """One read of any kind, kept only if it ends well."""
        kind, n = chance.randrange(4), chance.choice((1, 10, 5000, 40_000, 150_000))
        if kind == 0:
            got.append(stream.read(n))
        elif kind == 1:
            buffer = bytearray(n)
            got.append(bytes(buffer[: stream.readinto(buffer)]))
        elif kind == 2:
            try:
                got.append(stream.read_exactly(n))
            except IncompleteReadError as exc:
                got.append(exc.partial)
        else:
            try:
                got.append(stream.readline(limit=n))
            except PipeError:
                pass  # no line so short

    got, chance_of_sender = [], random.Random(seed)
    thread = threading.Thread(target=send)
    thread.start()
    while sum(map(len, got)) < len(data):
        task = spawn(read)
        if chance.random() < 0.5:
            for _ in range(chance.randrange(3)):
                evergreen.sleep(0)
            task.kill()
        task.join()
    assert b"".join(got) == data
    thread.join()
