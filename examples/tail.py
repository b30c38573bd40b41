"""Follow files as they grow, like tail -F: python examples/tail.py FILE ...

One task a file: it reads what is new, then waits until the directory says that something happened.  A file
may not be there yet, be cut, or be replaced (log rotation).  Ctrl-C or SIGTERM ends it.
"""

import os
import signal
import sys

import evergreen
from evergreen.io import fs


def new_lines(path):
    """Yield the lines of a file as they come, for ever."""
    fd, inode, at, part = -1, None, 0, b""
    folder = os.path.dirname(path) or "."
    with fs.watch(folder) as changes:
        try:
            while True:
                try:
                    found = fs.stat(path)
                except FileNotFoundError:
                    found = None
                if found and (found.st_ino != inode or found.st_size < at):  # another file, or cut
                    if fd >= 0:
                        fs.close(fd)
                    fd, inode, at, part = fs.open(path), found.st_ino, 0, b""
                while fd >= 0 and (data := fs.read(fd, 65536, at)):
                    at += len(data)
                    *lines, part = (part + data).split(b"\n")
                    yield from lines
                for change in changes:
                    if change.name == os.path.basename(path) or change.kind == "overflow":
                        break
        finally:
            if fd >= 0:
                fs.close(fd)


def follow(path):
    for line in new_lines(path):
        print(f"{os.path.basename(path)}: {line.decode(errors='replace')}", flush=True)


def main(paths):
    with evergreen.signals(signal.SIGINT, signal.SIGTERM) as ends:
        tasks = [evergreen.spawn(follow, path) for path in paths]
        next(ends)
        for task in tasks:
            task.kill()


if __name__ == "__main__":
    main(sys.argv[1:] or sys.exit(__doc__))
