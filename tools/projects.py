"""The test suites of others that tools/suites.py runs: where each comes from, and what it needs.

Versions are pinned, so that lists of tests stay right.  `left_out` are tests that no run executes, `known`
tests that assert what tasks cannot be: each a regular expression on the test's id, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SPINS = "a loop that calls nothing until another thread acts: tasks are not preempted"


@dataclass(frozen=True)
class Project:
    """A project of others; `make suites` runs its tests."""

    requirement: str  # what pip installs, and whose sdist has the tests
    needs: str = ""  # requirements of the tests, beside pytest
    arguments: str = "tests"  # of pytest, or of script
    script: str = ""  # runs the tests instead of pytest, with the settings that suite_report.py is
    folder: str = "."  # in the sdist: the working directory
    native: bool = False  # patched is ``evergreen run --native``
    in_sdist: bool = True  # if not, the tests are those of a checkout that the command line names
    silence: float = 30  # a test that reports nothing for so many seconds hangs
    limit: float = 1200  # seconds for one run
    environment: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    known: Mapping[str, str] = field(default_factory=dict)


DJANGO = """
    admin_scripts asgi async backends basic bulk_create builtin_server cache conditional_processing
    context_processors dbshell db_utils delete dispatch file_storage file_uploads files get_or_create
    handlers httpwrappers logging_tests mail middleware middleware_exceptions multiple_database
    requests_tests responses select_for_update servers sessions_tests signals signing staticfiles_tests
    template_loader test_client test_runner test_utils transaction_hooks transactions urlpatterns
    user_commands utils_tests view_tests wsgi
"""

PROJECTS = {
    "django": Project(
        "django==5.2.19",
        needs="aiosmtpd asgiref argon2-cffi bcrypt docutils jinja2 numpy Pillow pymemcache"
        " PyYAML redis sqlparse tblib tzdata",
        script="runtests.py",
        arguments="--settings=suite_report --parallel=1 -v0 " + DJANGO,
        folder="tests",
    ),
    "websockets": Project(
        "websockets==17.0.1",
        needs="python-socks[asyncio] mitmproxy",
        arguments="tests/sync tests/test_utils.py tests/test_cli.py",
        in_sdist=False,  # pruned, in every version
    ),
    "watchdog": Project("watchdog[watchmedo]==7.1.0", needs="flaky eventlet", arguments="tests -o addopts="),
    "sh": Project("sh==2.4.0"),
    "pebble": Project("pebble==5.2.3", arguments="test"),
    "pexpect": Project("pexpect==4.9.0"),
    "urllib3": Project(
        "urllib3[brotli,socks,h2]==2.8.0",
        needs="anyio[trio] h2 httpx hypercorn pysocks pytest-socket pytest-timeout quart quart-trio trio"
        " cryptography idna pyopenssl trustme",
        arguments="test -m 'not requires_network'",
        native=True,
    ),
    "cheroot": Project(
        "cheroot==11.1.2",
        needs="jaraco.context jaraco.text portend pyopenssl pypytools pytest-mock pytest-rerunfailures"
        " pytest-xdist requests[use_chardet_on_py3]"
        " requests-unixsocket requests_toolbelt trustme",
        arguments="cheroot/test -o addopts= -p cheroot.test._pytest_plugin -W ignore::DeprecationWarning",
        known={"test_remains_alive_post_unhandled_exception": SPINS},
    ),
    "celery": Project(
        "celery[yaml,msgpack,redis,sqlalchemy,pymemcache,pydantic,mongodb]==5.7.0",
        needs="pytest-celery pytest-rerunfailures pytest-subtests pytest-timeout pytest-click pytest-order"
        " freezegun boto3 moto==5.2.3 hypothesis gevent eventlet",
        arguments="t/unit",
    ),
    "kombu": Project(
        "kombu[yaml,msgpack,redis,sqlalchemy,mongodb]==5.7.0",
        needs="hypothesis Pyro4 pytest-freezer boto3 pycurl urllib3",
        arguments="t/unit",
    ),
    "tornado": Project(
        "tornado==6.6.1",
        needs="pycurl twisted",
        arguments="tornado/test",
        environment={"SUITE_QUIET": "tornado.access"},
    ),
    "werkzeug": Project(
        "werkzeug==3.1.9",
        needs="cffi cryptography ephemeral-port-reserve pytest-timeout watchdog",
    ),
    "requests": Project(
        "requests[socks]==2.34.2",
        needs="pytest-httpbin==2.1.0 httpbin~=0.10.0 pytest-mock trustme",
        left_out={
            "TestTimeout::test_(connect_timeout|total_timeout_connect)": "needs a host that does not answer"
        },
    ),
    "paramiko": Project("paramiko==5.1.0", needs="pytest-relaxed icecream"),
    "dnspython": Project(
        "dnspython[dnssec,doh,doq,idna,trio]==2.9.2",
        needs="anyio",
        environment={"NO_INTERNET": "1"},
    ),
    "sqlalchemy": Project(
        "sqlalchemy[asyncio]==2.1.9",
        needs="aiosqlite pytest<10",
        arguments="test/engine test/base test/ext/asyncio -p no:logging --maxfail=100000",
    ),
}
