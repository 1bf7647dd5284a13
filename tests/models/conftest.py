"""What tests of models share: JAX in its own precision, and Stan programs, compiled once in a session if wanted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from stan_programs import NEEDS, PROGRAMS, can_compile

import nutpie
from nutpie.models._stan_toolchain import choose_toolchain


@pytest.fixture(scope="module")
def single_precision() -> Iterator[None]:
    """JAX as it is by itself: PyTensor switches it to double precision for the whole process."""
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="session")
def stan_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the session's own, or the one that NUTPIE_TEST_STAN_CACHE names."""
    given = os.environ.get("NUTPIE_TEST_STAN_CACHE")
    folder = Path(given) if given else tmp_path_factory.mktemp("stan")
    before = os.environ.get("NUTPIE_STAN_CACHE")
    os.environ["NUTPIE_STAN_CACHE"] = str(folder)
    yield folder
    os.environ.pop("NUTPIE_STAN_CACHE")
    if before is not None:
        os.environ["NUTPIE_STAN_CACHE"] = before


@pytest.fixture(scope="session")
def stan_compiled(request: pytest.FixtureRequest, stan_cache: Path) -> Iterator[Callable]:
    """Function from the name of a program to the compiled program."""
    if not can_compile():
        pytest.skip("needs the package httpstan (extra `stan`) and a C++ compiler")
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    compiled: dict[str, Future] = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        stan = tuple(map(int, choose_toolchain("httpstan", ()).version.split(".")[:2]))
        for name, path in PROGRAMS.items():
            if name in wanted and stan >= NEEDS.get(name, stan):
                compiled[name] = pool.submit(
                    nutpie.compile_stan_model, filename=path, toolchain="httpstan", progress_bar=False
                )

        def result(name: str) -> object:
            if name not in compiled:
                pytest.skip(f"needs Stan {'.'.join(map(str, NEEDS[name]))}, not {'.'.join(map(str, stan))}")
            return compiled[name].result()

        yield result


def _fixture_of(name: str) -> Callable:
    @pytest.fixture(scope="session", name=name)
    def program(stan_compiled: Callable) -> object:
        return stan_compiled(name)

    return program


for _name in PROGRAMS:
    globals()[f"_{_name}"] = _fixture_of(_name)
