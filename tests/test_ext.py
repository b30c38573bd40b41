"""evergreen.ext: extensions under their short name."""

import importlib
import subprocess
import sys

import pytest

import evergreen.ext


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """Return a function that writes the files of extensions to a folder on sys.path."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)

    def write(**files):
        for name, text in files.items():
            path = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        if name.startswith(("evergreen_", "evergreen.ext.")):
            del sys.modules[name]
            vars(evergreen.ext).pop(name.removeprefix("evergreen.ext."), None)


def test_import_gives_the_module_of_the_long_name(extension):
    extension(evergreen_one="")
    import evergreen_one

    import evergreen.ext.one

    assert evergreen.ext.one is evergreen_one
    assert evergreen_one.__name__ == evergreen_one.__spec__.name == "evergreen_one"


def test_an_attribute_imports_the_module(extension):
    extension(evergreen_two="answer = 42")
    assert evergreen.ext.two.answer == 42
    assert sys.modules["evergreen.ext.two"] is sys.modules["evergreen_two"]


def test_from_import_works(extension):
    extension(evergreen_three="answer = 42")
    from evergreen.ext import three
    from evergreen.ext.three import answer

    assert three.answer == answer == 42


def test_a_submodule_is_loaded_once(extension):
    extension(evergreen_pack____init__="", evergreen_pack__sub="things = []")
    import evergreen_pack.sub

    import evergreen.ext.pack.sub

    assert evergreen.ext.pack.sub is evergreen_pack.sub


def test_an_extension_may_import_itself_by_the_short_name(extension):
    extension(evergreen_self="import evergreen.ext.self as me\nhere = me")
    import evergreen.ext.self as me

    assert me.here is me is sys.modules["evergreen_self"]


def test_a_missing_extension_is_a_missing_module():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'evergreen\.ext\.missing'"):
        importlib.import_module("evergreen.ext.missing")
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        evergreen.ext.missing  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'missing'"):
        from evergreen.ext import missing  # noqa: F401
    assert importlib.util.find_spec("evergreen.ext.missing") is None


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_module_at_all", ModuleNotFoundError),
        ("1 / 0", ZeroDivisionError),
        ("def", SyntaxError),
    ],
)
def test_an_error_inside_an_extension_comes_out_as_it_is(extension, source, error):
    extension(evergreen_bad=source)
    for ask in (lambda: importlib.import_module("evergreen.ext.bad"), lambda: evergreen.ext.bad):
        with pytest.raises(error) as caught:
            ask()
        assert type(caught.value) is error
        assert getattr(caught.value, "name", None) in (None, "no_such_module_at_all")
        assert "evergreen.ext.bad" not in sys.modules
        assert "evergreen_bad" not in sys.modules


def test_importing_evergreen_alone_adds_no_finder():
    code = "import sys; before = list(sys.meta_path); import evergreen; assert sys.meta_path == before"
    subprocess.run([sys.executable, "-c", code], check=True)
