"""`adapt`: executors of others, awaited cooperatively."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

from evergreen import _evergreen_c as core
from evergreen import _threads, patcher
from evergreen.futures import _native
from evergreen.futures._base import ChunkingExecutor, Executor, Future, Relay

__all__ = ["adapt"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def adapt(executor: concurrent.futures.Executor) -> Executor:
    """Return an executor that has *executor* make the calls and lets other tasks run meanwhile.

    It takes any `concurrent.futures.Executor`, such as loky's ``get_reusable_executor()`` or Dask's
    ``client.get_executor()``.  Futures and ``map()`` are awaited as all of Evergreen's are, cancelling
    one cancels the call, and ``shutdown()`` shuts *executor* down.  Where threads are patched, *executor*
    is called in a native thread, so that the threads that it starts are native.  Other attributes are
    those of *executor*.  An executor of Evergreen's is returned as it is.

    TypeError: it has no ``submit()`` or no ``shutdown()``.
    """
    if isinstance(executor, Executor):
        return executor
    for method in ("submit", "shutdown"):
        if not callable(getattr(executor, method, None)):
            raise TypeError(f"adapt() takes an executor, which has a {method}() method, not {executor!r}")
    return _Adapted(executor)


class _Adapted(ChunkingExecutor):
    """An executor of somebody else."""

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        self._executor = executor

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have fn(*args, **kwargs) be called by the executor; return the future of its outcome."""
        inner: concurrent.futures.Future[_T]
        if core.loop_here() is not None and patcher.is_patched("_thread"):
            inner = _threads.user.run(copy_context().run, (self._executor.submit, fn, *args), kwargs)
        else:
            inner = self._executor.submit(fn, *args, **kwargs)
        return Relay[_T]().follow(inner)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the executor down; see `concurrent.futures.Executor.shutdown`."""
        options = {"cancel_futures": True} if cancel_futures else {}  # not everybody's takes it
        _native.call(self._executor.shutdown, wait=wait, **options)

    def __getattr__(self, name: str) -> Any:
        if name == "_executor":
            raise AttributeError(name)  # while it is being made
        return getattr(self._executor, name)

    def __repr__(self) -> str:
        return f"adapt({self._executor!r})"
