"""What is kept from run to run lies where the user wants it, and never where another build would load it."""

import jax
import jaxlib
import pytest

from fednas_jax.runtime import cache


@pytest.fixture
def settings():
    """jax's settings, put back afterwards."""
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield lambda name, value: jax.config.update(name, value)
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_folder_names_the_build_and_the_processor(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = cache.folder()
    assert here.parent == tmp_path / "fednas_jax"
    assert jaxlib.version.__version__ in here.name
    monkeypatch.setattr(cache, "_processor", lambda: "another")
    assert cache.folder() != here
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.folder().parent == tmp_path / "home" / ".cache" / "fednas_jax"


def test_programs_are_kept_in_it_unless_the_user_said_otherwise(monkeypatch, tmp_path, settings):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings("jax_compilation_cache_dir", "/mine")
    cache.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == "/mine"
    settings("jax_compilation_cache_dir", None)
    settings("jax_enable_compilation_cache", False)
    cache.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
    settings("jax_enable_compilation_cache", True)
    cache.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == str(cache.folder() / "programs")


@pytest.mark.parametrize("trouble", ["no home", "unwritable"])
def test_without_a_place_to_write_a_process_goes_on_with_a_folder_for_now_and_says_so_once(
    monkeypatch, tmp_path, trouble, caplog
):
    monkeypatch.delenv("XDG_CACHE_HOME")
    if trouble == "no home":

        def nowhere():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(cache.Path, "home", nowhere)
    else:
        (tmp_path / "file").write_text("")  # a folder below a file can never be made, not even by root
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
    cache._for_now.cache_clear()
    first = cache.folder()
    first.mkdir(parents=True)
    assert cache.folder() == first
    assert tmp_path not in first.parents
    assert caplog.text.count("no cache is kept") == 1
