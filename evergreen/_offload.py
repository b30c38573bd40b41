"""`evergreen.offload` and what belongs to it: any callable in a native thread."""

from __future__ import annotations

from contextvars import copy_context

from evergreen import _evergreen_c as core
from evergreen import _threads

TYPE_CHECKING = False  # as in module typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar

    _P = ParamSpec("_P")
    _R = TypeVar("_R")


def offload(function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run function(*args, **kwargs) in a native thread while the task waits; return what it returns.

    For calls that would block the event loop: computation in C, libraries that wait by themselves.  What it
    raises is raised here; it sees the task's context variables.  A task that is killed before the call has
    begun takes it back; later, the call is left to end, and its result is dropped.  Up to 32 such calls run
    at once (`lane_limit`), more wait.  A function that runs this way may offload, too.
    """
    return offload_to("user", function, *args, **kwargs)


def offload_to(lane: str, function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Like `offload`, in the threads of one lane: "user", "compute", "file" or "dns".

    Calls in one lane do not delay those in another.  "compute" is for what keeps a processor busy without
    the GIL: it has one thread less than there are processors, so loops have one for themselves.  ValueError:
    there is no such lane.
    """
    context = copy_context()
    result: _R = _lane(lane).run(context.run, (function, *args), kwargs)
    return result


def lane_limit(lane: str, limit: int | None = None) -> int:
    """Have a lane use up to *limit* native threads; return how many it might use before.

    "dns" and "file" are two sets of threads each, for Python functions and for the system calls of
    `evergreen.io`; the limit is that of each.  While none of their calls ends, these two get more, for they
    may all be waiting for something that does not answer.  None changes nothing.  ValueError: no such lane,
    or a limit below 1.
    """
    it = _lane(lane)
    before = it.limit
    if limit is not None:
        if limit < 1:
            raise ValueError(f"a lane needs a thread, not {limit}")
        it.limit = limit
        if lane in ("dns", "file"):
            core.work_limit(lane, limit)
    return before


def _lane(name: str) -> _threads.Lane:
    try:
        return _threads.lanes[name]
    except KeyError:
        raise ValueError(f"there is no lane {name!r}, but {', '.join(_threads.lanes)}") from None
