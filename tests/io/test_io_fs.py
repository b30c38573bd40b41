"""evergreen/io/fs.py: directories, and what changes."""

import gc
import os
import stat

import pytest
from helpers import in_thread, settle

from evergreen import sleep, spawn
from evergreen.io import fs


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "dir").mkdir()
    os.symlink("dir", tmp_path / "link")
    os.symlink("nowhere", tmp_path / "broken")
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


# ---- directories -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [str, os.fsencode], ids=["str", "bytes"])
def test_entries_are_like_those_of_os(hub, folder, make):
    def facts(entry):
        found = [type(entry.name), entry.name, entry.path, os.fspath(entry), entry.inode(), repr(entry)]
        for follow in (True, False):
            found += [entry.is_dir(follow_symlinks=follow), entry.is_file(follow_symlinks=follow)]
            try:
                found.append(entry.stat(follow_symlinks=follow))
            except OSError as exc:
                found.append(str(exc))
        return [*found, entry.is_symlink()]

    ours = [facts(entry) for entry in fs.scandir(make(folder))]
    theirs = sorted((facts(entry) for entry in os.scandir(make(folder))), key=lambda found: found[1])
    assert ours == theirs


def test_an_entry_asks_once(hub, folder):
    entry = next(iter(fs.scandir(folder)))
    before = entry.stat(follow_symlinks=False)
    assert entry.stat(follow_symlinks=False) is before
    os.unlink(entry.path)
    assert entry.stat(follow_symlinks=False) is before
    assert entry.is_junction() is False


def test_an_entry_that_is_gone_is_neither_file_nor_directory(hub, folder):
    entry = fs.DirEntry(str(folder), "file", 0)  # of a file system that does not tell types
    os.unlink(entry.path)
    assert (entry.is_file(), entry.is_dir(), entry.is_symlink()) == (False, False, False)


def test_scandir_is_a_context_manager(hub, folder):
    with fs.scandir(folder) as entries:
        assert next(entries).name == "broken"
    assert list(entries) == []


# ---- changes ---------------------------------------------------------------------------------------


def test_a_directory_is_read_in_parts(hub, tmp_path):
    names = {f"{n:04}-{'x' * 90}" for n in range(1000)}  # more than one part of 32 KiB holds
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with fs.opendir(tmp_path) as directory:
        parts = []
        while part := fs.readdir(directory):
            parts.append(part)
    assert directory.closed
    assert len(parts) > 1
    found = {entry.name: entry for part in parts for entry in part}
    assert set(found) == names | {"folder", "link"}
    assert found["folder"].is_dir()
    assert not found["folder"].is_symlink()
    assert found["link"].is_symlink()
    assert found["link"].is_dir()
    assert found[min(names)].is_file()
    assert found["folder"].path == str(tmp_path / "folder")
    with fs.opendir(os.fsencode(tmp_path)) as directory:
        assert {os.fsdecode(entry.name) for entry in directory} == set(found)
        assert list(directory) == []


def test_a_directory_that_is_empty_closed_or_none(hub, tmp_path):
    with fs.opendir(tmp_path) as directory:
        assert list(directory) == []
    directory.close()
    with pytest.raises(ValueError, match="closed"):
        fs.readdir(directory)
    with pytest.raises(FileNotFoundError):
        fs.opendir(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        fs.opendir(tmp_path / "file")


def test_a_directory_that_nobody_closed_is_closed_and_told(hub, tmp_path):
    directory = fs.opendir(tmp_path)
    fd = directory.fileno()
    with pytest.warns(ResourceWarning, match="unclosed <Directory"):
        del directory
        gc.collect()
    with pytest.raises(OSError):
        os.fstat(fd)


def test_changes_in_a_directory(hub, tmp_path):
    with fs.watch(tmp_path) as watch:
        (tmp_path / "file").write_text("text")
        os.rename(tmp_path / "file", tmp_path / "other")
        os.chmod(tmp_path / "other", stat.S_IRUSR)
        os.unlink(tmp_path / "other")
        changes = [next(watch) for _ in range(6)]
        assert changes == [
            ("created", "file"),
            ("modified", "file"),
            ("moved_from", "file"),
            ("moved_to", "other"),
            ("attributes", "other"),
            ("deleted", "other"),
        ]
        assert (changes[0].kind, changes[0].name) == ("created", "file")


def test_a_watch_waits_for_a_change(hub, tmp_path):
    with fs.watch(tmp_path) as watch:
        waiting = spawn(next, watch)
        settle()
        assert waiting.is_alive()
        (tmp_path / "file").touch()
        assert waiting.result() == ("created", "file")


def test_a_watch_of_a_file_ends_when_it_is_deleted(hub, tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    watch = fs.watch(path)
    path.write_text("text")
    path.unlink()
    changes = list(watch)
    assert changes[0] == ("modified", None)
    assert changes[-1] == ("deleted", None)
    assert list(watch) == []
    watch.close()


def test_waiting_for_a_change_can_time_out(hub, tmp_path):
    with fs.watch(tmp_path) as watch:
        with pytest.raises(TimeoutError):
            watch.next(0.002)
        (tmp_path / "file").touch()
        assert watch.next(10) == ("created", "file")


def test_closing_a_watch_ends_it(hub, tmp_path):
    watch = fs.watch(tmp_path)
    waiting = spawn(list, watch)
    settle()
    watch.close()
    assert watch.closed
    assert waiting.result() == []
    watch.close()
    assert repr(watch) == f"<Watch {str(tmp_path)!r} closed>"


def test_a_watch_that_nobody_holds_is_closed(hub, tmp_path):
    fs.watch(tmp_path).close()
    before = len(os.listdir("/proc/self/fd"))
    watch = fs.watch(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del watch
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_not_there_cannot_be_watched(hub, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        fs.watch(tmp_path / "nowhere")
    assert caught.value.filename == str(tmp_path / "nowhere")


def test_a_thread_without_a_loop_can_watch(hub, tmp_path):
    def work():
        with fs.watch(tmp_path) as watch:
            (tmp_path / "file").touch()
            return next(watch)

    assert in_thread(work) == ("created", "file")


def test_a_busy_task_does_not_lose_changes(hub, tmp_path):
    seen = []

    def watch_them():
        for change in watch:
            seen.append(change.name)
            sleep(0)

    with fs.watch(tmp_path) as watch:
        watcher = spawn(watch_them)
        for number in range(300):
            os.mkdir(tmp_path / str(number))
        while len(seen) < 300:
            sleep(0.001)
    watcher.join()
    assert seen == [str(number) for number in range(300)]
