"""What compiles Stan programs, and the cache of what was compiled. Most of it without a C++ compiler."""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import io
import multiprocessing
import os
import shutil
import stat
import subprocess
import threading
import time
import zipfile
from pathlib import Path

import pytest

import nutpie
from nutpie.models import _stan_bridgestan, _stan_httpstan, _stan_program
from nutpie.models._stan_cache import cache_folder, digest, kept
from nutpie.models._stan_httpstan import Httpstan
from nutpie.models._stan_progress import progress_line
from nutpie.models._stan_source import read_source
from nutpie.models._stan_toolchain import choose_toolchain

FAKE = Path(__file__).with_name("fake_bridgestan.c")

PROGRAM = "parameters { real x; } model { x ~ std_normal(); }"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("NUTPIE_STAN_CACHE", str(folder))
    return folder


@pytest.fixture
def alone(monkeypatch):
    """No packages but those that a test adds, and no variables."""
    for name in ("BRIDGESTAN", "NUTPIE_HTTPSTAN", "CXX", "MAKE"):
        monkeypatch.delenv(name, raising=False)
    find = importlib.util.find_spec
    packages = {"bridgestan": None, "httpstan": None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: packages.get(name, find) and find(name, *a))
    return packages


class FakeToolchain:
    """Compiles a library in C in place of the program, and counts how often."""

    name = "fake"
    version = "2.99.0"

    def __init__(self):
        self.built = 0
        self.own = "one"

    def describe(self):
        return self.name

    def identity(self, source, precompiled_header):
        return [self.own]

    def info(self, source, folder):
        return {"inputs": {}, "parameters": {"x": {"type": "real", "dimensions": 1}}, "transformed parameters": {}}

    def build(self, source, folder, precompiled_header):
        self.built += 1
        if "error" in source.code:
            raise RuntimeError("the compiler failed")
        library = folder / "x_model.so"
        subprocess.run(["cc", "-w", "-shared", "-fPIC", str(FAKE), "-o", str(library)], check=True)
        return library


@pytest.fixture
def fake(cache, monkeypatch):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler on this machine")
    toolchain = FakeToolchain()
    monkeypatch.setattr(_stan_program, "choose_toolchain", lambda which, arguments: toolchain)
    return toolchain


# ----------------------------------------------------------------------------------------------------------- toolchains


def test_what_is_missing_is_said(alone, monkeypatch):
    with pytest.raises(ImportError) as caught:
        nutpie.compile_stan_model(code=PROGRAM)
    message = str(caught.value)
    assert "bridgestan: the package bridgestan is not installed: run pip install bridgestan" in message
    assert 'httpstan: the package httpstan is not installed: run pip install "nutpie[stan]"' in message
    with pytest.raises(ImportError, match="httpstan: the package httpstan is not installed"):
        nutpie.compile_stan_model(code=PROGRAM, toolchain="httpstan")
    with pytest.raises(ValueError, match=r"toolchain='stan' is not available; choose from 'auto', 'bridgestan', 'http"):
        nutpie.compile_stan_model(code=PROGRAM, toolchain="stan")


def test_a_compiler_is_needed(alone, monkeypatch, tmp_path):
    root = package(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(ImportError, match=r"there is no C\+\+ compiler: install g\+\+ or clang\+\+"):
        choose_toolchain(root, ())
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(
        ImportError, match="'no-such-compiler -m64' that the environment variable CXX names is not there"
    ):
        choose_toolchain(root, ())


def test_the_compiler_of_the_environment(alone, monkeypatch, tmp_path):
    compiler = script(tmp_path / "bin/my-c++", "echo my compiler 7.0")
    monkeypatch.setenv("CXX", f"{compiler} -m64")
    found = choose_toolchain(package(tmp_path), ()).compiler
    assert found.command == (str(compiler), "-m64")
    assert found.version == "my compiler 7.0"


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def package(folder, version="2.99.1"):
    """Make a folder that looks like the package httpstan."""
    root = folder / "httpstan"
    script(root / "stanc", f"echo 'stanc3 v{version} (Unix)'")
    (root / "include/stan").mkdir(parents=True)
    (root / "include/stan/math.hpp").write_text("")
    (root / "lib").mkdir()
    return root


def test_a_folder_or_wheel_of_httpstan(alone, cache, monkeypatch, tmp_path):
    root = package(tmp_path)
    assert choose_toolchain(root, ()).version == "2.99.1"
    assert choose_toolchain(root.parent, ()).root == root
    monkeypatch.setenv("NUTPIE_HTTPSTAN", str(root))
    found = choose_toolchain("auto", ())
    assert (found.name, found.root) == ("httpstan", root)
    assert found.describe().startswith("httpstan, Stan 2.99.1, ")

    wheel = tmp_path / "httpstan-9.9.0-cp399-cp399-manylinux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in root.rglob("*"):
            if path.is_file():
                archive.writestr(str(path.relative_to(tmp_path)), path.read_text())
        archive.writestr("httpstan/lib/libtbb.so.2", "")
        archive.writestr("httpstan/models.py", "this is not needed")
    found = choose_toolchain(wheel, ())
    assert found.version == "2.99.1"
    assert cache in found.root.parents
    assert not (found.root / "models.py").exists()
    assert choose_toolchain(wheel, ()).root == found.root
    monkeypatch.setenv("NUTPIE_HTTPSTAN", str(wheel))
    assert choose_toolchain("httpstan", ()).root == found.root


def test_what_is_not_httpstan(alone, cache, tmp_path):
    with pytest.raises(ImportError, match="is not the package httpstan, for it has no stanc"):
        choose_toolchain(tmp_path, ())
    (tmp_path / "file").write_text("text")
    with pytest.raises(ImportError, match="is neither a folder nor a wheel"):
        choose_toolchain(tmp_path / "file", ())
    with pytest.raises(ValueError, match="has 'STAN_OPENCL=true', which looks like a variable of make"):
        choose_toolchain(package(tmp_path), ("STAN_OPENCL=true",))


def test_bridgestan_comes_first_where_it_can_be_used(alone, monkeypatch, tmp_path):
    pytest.importorskip("bridgestan")
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    alone.pop("bridgestan")
    root = package(tmp_path)
    monkeypatch.setenv("NUTPIE_HTTPSTAN", str(root))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(_stan_bridgestan, "_can_download", lambda version: False)
    assert choose_toolchain("auto", ()).name == "httpstan"
    with pytest.raises(
        ImportError, match=r"sources are not in .*\.bridgestan/bridgestan-.* and cannot be downloaded: set"
    ):
        choose_toolchain("bridgestan", ())
    monkeypatch.setattr(_stan_bridgestan, "_can_download", lambda version: True)
    assert choose_toolchain("auto", ()).name == "bridgestan"
    monkeypatch.setenv("BRIDGESTAN", str(tmp_path / "none"))
    with pytest.raises(
        ImportError, match=r"BRIDGESTAN=.* in the environment is not the folder of BridgeStan's sources"
    ):
        choose_toolchain("bridgestan", ())
    monkeypatch.setenv("MAKE", "no-such-make")
    with pytest.raises(ImportError, match="bridgestan needs no-such-make, which is not there"):
        choose_toolchain("bridgestan", ())


def test_no_answer_means_no_download(monkeypatch):
    monkeypatch.setattr(_stan_bridgestan, "RELEASES", "http://127.0.0.1:9/nothing")
    began = time.monotonic()
    assert not _stan_bridgestan._can_download("0.0.0")
    assert time.monotonic() - began < 2 * _stan_bridgestan.PATIENCE


MAKEFILE = """
%_model.so: %.stan
\techo "$(MAKEFLAGS) $(STANCFLAGS) $(CXXFLAGS_PROGRAM) STAN_THREADS=$(STAN_THREADS)" > {log}
\tcc -w -shared -fPIC {fake} -o $@
"""


def test_compiling_with_bridgestan(alone, cache, monkeypatch, tmp_path):
    pytest.importorskip("bridgestan")
    if shutil.which("make") is None or shutil.which("cc") is None:
        pytest.skip("no make or no C compiler on this machine")
    alone.pop("bridgestan")
    root, log = tmp_path / "sources", tmp_path / "log"
    script(
        root / "bin/stanc", '[ "$1" = --version ] && echo "stanc3 v2.98.0" || echo \'{"inputs": {}, "parameters": {}}\''
    )
    (root / "Makefile").write_text(MAKEFILE.format(log=log, fake=FAKE))
    monkeypatch.setenv("BRIDGESTAN", str(root))
    model = nutpie.compile_stan_model(
        code="#include <nothing.stan>\n" + PROGRAM,
        extra_stanc_args=["--O1", f"--include-paths={tmp_path}"],
        extra_compile_args=["-O3", "STAN_OPENCL=true"],
        progress_bar=False,
    )
    assert (model.toolchain, model.stan_version) == ("bridgestan", "2.98.0")
    assert model.n_dim == 2
    flags = log.read_text()
    for part in ("--O1", f"--include-paths={tmp_path}", "-O3", "STAN_THREADS=true", "STAN_OPENCL=true"):
        assert part in flags
    with pytest.raises(ValueError, match="precompiled_header=True is for toolchain='httpstan'"):
        nutpie.compile_stan_model(code=PROGRAM, precompiled_header=True)


# ---------------------------------------------------------------------------------------------------- with a real stanc


def test_mistakes_in_a_program(cache):
    pytest.importorskip("httpstan")
    with pytest.raises(
        ValueError, match=r"the Stan program 'wrong' cannot be translated:\n.*'wrong.stan', line 1"
    ) as caught:
        nutpie.compile_stan_model(
            code="parameters { real x } model {}", model_name="wrong", toolchain="httpstan", progress_bar=False
        )
    assert "^" in str(caught.value)
    assert [path.name for path in cache.rglob("*") if path.is_file()] == []


def test_a_program_that_is_only_compiled_without_optimisation(cache, monkeypatch, tmp_path):
    pytest.importorskip("httpstan")
    translated = []

    def compile_(self, file, made, arguments, what, language="c++"):
        translated.append("--O1" in file.read_text())
        if translated[-1]:
            raise RuntimeError("no matching function")
        made.touch()

    monkeypatch.setattr(Httpstan, "_compile", compile_)
    toolchain = choose_toolchain("httpstan", ())
    source = read_source(PROGRAM, None, None, ())
    toolchain._compiled(source, source.write(tmp_path), tmp_path, [])
    assert translated == [True, False]
    source = read_source(PROGRAM, None, None, ("--O1",))
    with pytest.raises(RuntimeError, match="no matching function"):
        toolchain._compiled(source, source.write(tmp_path), tmp_path, [])


def test_output_of_a_compiler_that_fails(tmp_path, monkeypatch):
    compiler = script(tmp_path / "c++", "[ $1 = --version ] && exit; echo 'model.cpp:3: error: no such thing'; exit 1")
    monkeypatch.setenv("CXX", str(compiler))
    toolchain = choose_toolchain(package(tmp_path), ())
    with pytest.raises(RuntimeError, match=r"compiling X failed with code 1:\nmodel.cpp:3: error: no such thing"):
        toolchain._compile(tmp_path / "a.cpp", tmp_path / "a.o", [], "compiling X")


# ---------------------------------------------------------------------------------------------------------------- cache


def compile_fake(code=PROGRAM, **kwargs):
    return nutpie.compile_stan_model(**{"code": code, "progress_bar": False} | kwargs)


def test_a_program_is_compiled_once(fake, cache):
    first, second = compile_fake(), compile_fake()
    assert fake.built == 1
    assert first.library == second.library
    assert cache in first.library.parents
    assert second.stan_version == "2.99.0"
    assert second.n_dim == 2


def test_what_a_compiled_program_depends_on(fake, tmp_path):
    (tmp_path / "inner.stan").write_text("real f() { return 1; }")
    (tmp_path / "outer.stan").write_text("#include inner.stan")
    (tmp_path / "m.stan").write_text("functions {\n  #include <outer.stan>\n}\n" + PROGRAM)
    steps = [
        lambda: compile_fake(),
        lambda: compile_fake(PROGRAM + " "),
        lambda: compile_fake(extra_stanc_args=["--O1"]),
        lambda: compile_fake(model_name="other"),
        lambda: compile_fake(code=None, filename=tmp_path / "m.stan"),
        lambda: (
            (tmp_path / "inner.stan").write_text("real f() { return 2; }")
            and compile_fake(code=None, filename=tmp_path / "m.stan")
        ),
        lambda: setattr(fake, "own", "two") or compile_fake(),
    ]
    for number, step in enumerate(steps, 1):
        step()
        assert fake.built == number
        step() if number != 6 else compile_fake(code=None, filename=tmp_path / "m.stan")
        assert fake.built == number


def test_the_real_toolchain_depends_on_arguments_and_places(alone, monkeypatch, tmp_path):
    source = read_source(PROGRAM, None, None, ())
    root = package(tmp_path)
    one = choose_toolchain(root, ()).identity(source, False)
    assert one == choose_toolchain(root, ()).identity(source, True)
    assert one != choose_toolchain(root, ("-O3",)).identity(source, False)
    assert one != choose_toolchain(root, ()).identity(read_source(PROGRAM, None, None, ("--O0",)), False)
    root.rename(tmp_path / "moved")
    assert one != choose_toolchain(tmp_path / "moved", ()).identity(source, False)
    monkeypatch.setattr(_stan_httpstan, "_shim", lambda name: "another shim")
    assert one != choose_toolchain(tmp_path / "moved", ()).identity(source, False)


def test_without_a_cache(fake, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = compile_fake(cache=False)
    compile_fake(cache=False)
    assert fake.built == 2
    assert not cache.exists()
    assert not model.library.exists()
    assert model.n_dim == 2  # it stays loaded
    assert compile_fake(cache=False, cleanup=False).library.exists()


def test_a_failure_leaves_nothing_behind(fake, cache):
    with pytest.raises(RuntimeError, match="the compiler failed"):
        compile_fake("error")
    assert list((cache / "models").iterdir()) == []


def test_a_damaged_entry_is_made_again(fake):
    library = compile_fake().library
    library.unlink()
    assert compile_fake().library.exists()
    library.with_name("program.json").write_text("{")
    compile_fake()
    assert fake.built == 3


def test_processes_that_make_the_same_at_once(cache):
    context = multiprocessing.get_context("fork")
    barrier, folders = context.Barrier(2), context.Queue()

    def make(folder):
        barrier.wait(30)  # both have found nothing
        (folder / "content").touch()

    processes = [context.Process(target=lambda: folders.put(kept("models", "key", make))) for _ in range(2)]
    for process in processes:
        process.start()
    assert [folders.get(timeout=30) for _ in processes] == [cache / "models/key"] * 2
    for process in processes:
        process.join()
    assert os.listdir(cache / "models") == ["key"]
    assert (cache / "models/key/content").exists()


def test_threads_that_want_the_same_wait_for_each_other(cache):
    made, folders = [], []

    def make(folder):
        time.sleep(0.1)
        made.append(folder)

    threads = [threading.Thread(target=lambda: folders.append(kept("models", "key", make))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert folders == [cache / "models/key"] * 3


def test_digest_tells_parts_apart():
    assert len({digest(parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""], [b"ab", b"d"])}) == 5


def test_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("NUTPIE_STAN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "nutpie/stan"


def aged(cache, kind, name, days):
    folder = cache / kind / name
    folder.mkdir(parents=True)
    (folder / "file").touch()
    when = time.time() - 24 * 3600 * days
    os.utime(folder, (when, when))
    return folder


def test_prune(cache):
    for day in range(10):
        aged(cache, "models", f"m{day}", day)
    aged(cache, "shims", "old", 20)
    aged(cache, "shims", "new", 1)
    aged(cache, "models", ".unfinished-x", 2)
    aged(cache, "models", ".unfinished-y", 0)
    removed = nutpie.prune_stan_cache(max_entries=3, min_age=datetime.timedelta(days=5))
    assert sorted(path.name for path in removed) == [".unfinished-x", "m5", "m6", "m7", "m8", "m9", "old"]
    left = sorted(path.name for path in cache.glob("*/*"))
    assert left == [".unfinished-y", "m0", "m1", "m2", "m3", "m4", "new"]
    assert nutpie.prune_stan_cache() == []
    nutpie.prune_stan_cache(0, 0)
    assert sorted(path.name for path in cache.glob("models/*")) == [".unfinished-y"]
    for arguments in ((-1, 0), (0, -1), (0, float("nan"))):
        with pytest.raises(ValueError, match="must not be negative"):
            nutpie.prune_stan_cache(*arguments)


def test_compiling_prunes_unless_told_not_to(fake, cache):
    folders = [aged(cache, "models", f"m{day}", 30 + day) for day in range(20)]
    compile_fake(prune_cache=False)
    assert all(folder.exists() for folder in folders)
    compile_fake()
    assert sum(folder.exists() for folder in folders) == 15


# ----------------------------------------------------------------------------------------------------- source, progress


def test_names_and_includes(tmp_path):
    path = tmp_path / "my model-2.stan"
    path.write_text("#include other.stan\n" + PROGRAM)
    source = read_source(None, path, None, ("--include-paths=/a,/b", "--warn-pedantic", "-I", "/c"))
    assert source.name == "my_model_2"
    assert source.arguments() == ["--warn-pedantic", f"--include-paths=/a,/b,/c,{tmp_path}"]
    assert read_source(PROGRAM, None, None, ("-I/a",)).arguments() == []
    assert read_source(PROGRAM, None, None, ()).name == "model"
    with pytest.raises(ValueError, match="must begin with a letter, '2' does not: give model_name"):
        read_source(PROGRAM, None, "2", ())
    with pytest.raises(FileNotFoundError, match="there is no Stan program"):
        read_source(None, tmp_path / "none.stan", None, ())


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_progress(stream, monkeypatch):
    monkeypatch.setattr("nutpie.models._stan_progress.SHORT", 0.01)
    out = stream()
    with progress_line("compiling x", show=True, stream=out):
        time.sleep(0.1)
    text = out.getvalue()
    if stream is Terminal:
        assert text.endswith("\r\x1b[2K")
        assert "nutpie: compiling x ... 0 s" in text
    else:
        assert text.splitlines()[0] == "nutpie: compiling x ..."
        assert text.splitlines()[1].startswith("nutpie: done after 0.1 s")
    with contextlib.suppress(KeyError), progress_line("compiling x", show=True, stream=out):
        time.sleep(0.05)
        raise KeyError
    if stream is not Terminal:
        assert "failed after" in out.getvalue()
    silent = stream()
    with progress_line("compiling x", show=False, stream=silent):
        time.sleep(0.05)
    assert silent.getvalue() == ""
