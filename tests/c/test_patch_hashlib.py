"""patch_hashlib.c: deriving keys lets other tasks run."""

import hashlib

import pytest
from helpers import parked, settle

import evergreen
from evergreen import patcher, spawn

CALLS = {
    "scrypt": lambda: hashlib.scrypt(b"password", salt=b"salt", n=16384, r=8, p=1),
    "pbkdf2_hmac": lambda: hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 100_000),
    "keywords": lambda: hashlib.pbkdf2_hmac(
        hash_name="sha256", password=b"password", salt=b"salt", iterations=100_000, dklen=5
    ),
}


@pytest.fixture
def patched(hub):
    with patcher.patched(hashlib=True):
        yield hub


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_others_run_while_a_key_is_derived(hub, call):
    expected = call()
    with patcher.patched(hashlib=True):
        task = parked(call)
        ran = spawn(len, "abc")
        settle()
        assert ran.result() == 3
        assert task.is_alive()
        assert task.result() == expected


def test_a_short_derivation_needs_no_thread(patched):
    ran = []
    spawn(ran.append, 1)
    assert len(hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 10)) == 32
    assert ran == []
    evergreen.sleep(0)


def test_what_is_refused_is_refused_as_ever(patched):
    with pytest.raises(ValueError):
        hashlib.scrypt(b"password", salt=b"salt", n=3, r=8, p=1)
    with pytest.raises(ValueError):
        hashlib.pbkdf2_hmac("nothing", b"password", b"salt", 100_000)
    with pytest.raises(TypeError):
        hashlib.pbkdf2_hmac("sha256", b"password")
