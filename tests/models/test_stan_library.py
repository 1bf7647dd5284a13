"""Libraries that others have made, and the names of the elements of variables."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

import nutpie
from nutpie.models._stan_variables import declared_variables, stan_variables
from nutpie.models.base import DrawContext

SOURCE = Path(__file__).with_name("fake_bridgestan.c")

SETTINGS = {"draws": 100, "tune": 100, "chains": 4, "seed": 1, "progress_bar": False, "check": False}


@pytest.fixture
def fake(tmp_path):
    """Function from definitions to a library."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler on this machine")

    def build(*definitions, name="fake_model.so"):
        path = tmp_path / name
        command = [
            "cc",
            "-O1",
            "-w",
            "-shared",
            "-fPIC",
            *(f"-D{d}" for d in definitions),
            str(SOURCE),
            "-o",
            str(path),
        ]
        subprocess.run(command, check=True)
        return path

    return build


def test_a_library_for_one_thread_is_used_by_one_thread(fake):
    path = fake()
    model = nutpie.compile_stan_model(library=path)
    with pytest.warns(
        UserWarning, match="compiled without STAN_THREADS=true, so that its chains run one after"
    ) as found:
        idata = nutpie.sample(model, cores=4, **SETTINGS)
    assert found[0].filename == __file__
    assert ctypes.c_int.in_dll(ctypes.CDLL(str(path)), "most_inside").value == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = nutpie.sample(model, cores=1, **SETTINGS)
    np.testing.assert_array_equal(idata.posterior["x"], alone.posterior["x"])


def test_threads_that_use_it_all_the_same_wait_for_each_other(fake):
    path = fake()
    models = [nutpie.compile_stan_model(library=path) for _ in range(2)]
    handles = [nutpie.sample(model, blocking=False, cores=1, **SETTINGS | {"draws": 2000}) for model in models]
    for handle in handles:
        handle.wait()
    assert ctypes.c_int.in_dll(ctypes.CDLL(str(path)), "most_inside").value == 1


def test_a_library_for_several_threads(fake):
    path = fake('THREADS="true"')
    model = nutpie.compile_stan_model(library=path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        idata = nutpie.sample(model, cores=4, **SETTINGS | {"draws": 2000})
    assert ctypes.c_int.in_dll(ctypes.CDLL(str(path)), "most_inside").value > 1
    post = idata.posterior
    np.testing.assert_allclose(post["total"], post["x"].sum("x_dim_0"))
    # All errors of BridgeStan's own libraries have the same code: they are rejections.
    assert post["x"].isel(x_dim_0=0).max() <= 1
    assert str(idata.messages["text"].values[0]) == "x is too large"
    assert post.attrs["stan_version"] == "2.30.1"
    assert post.attrs["stan_toolchain"] == "library"


def test_libraries_that_are_refused(fake, tmp_path):
    with pytest.raises(OSError, match=r"version 3.5.0 of BridgeStan's interface, 2.x is needed"):
        nutpie.compile_stan_model(library=fake("MAJOR=3", name="new.so"))
    with pytest.raises(OSError, match="it has no function bs_rng_construct"):
        nutpie.compile_stan_model(library=fake("WITHOUT_RNG", name="part.so"))
    with pytest.raises(FileNotFoundError, match="there is no library"):
        nutpie.compile_stan_model(library=tmp_path / "none.so")
    text = tmp_path / "text.so"
    text.write_text("not a library")
    with pytest.raises(OSError, match=r"text.so cannot be used: it cannot be loaded"):
        nutpie.compile_stan_model(library=text)
    from nutpie import _lib

    with pytest.raises(OSError, match="it was not made by BridgeStan"):
        nutpie.compile_stan_model(library=_lib.__file__)
    with pytest.raises(ValueError, match="Stan does not take the data: no such data"):
        nutpie.compile_stan_model(library=fake()).with_data(bad=1)


def test_a_library_that_was_made_anew(fake):
    old = nutpie.compile_stan_model(library=fake()).with_data()
    new = nutpie.compile_stan_model(library=fake('THREADS="true"')).with_data()
    same = nutpie.compile_stan_model(library=new.library).with_data()
    assert [model._model.threads for model in (old, new, same)] == [False, True, True]


def test_arguments_that_do_not_fit_together(fake):
    with pytest.raises(ValueError, match=r"give one of code=..., filename=... and library=..."):
        nutpie.compile_stan_model(library=fake(), code="parameters {real x;}")
    with pytest.raises(ValueError, match=r"either as code=... or as filename="):
        nutpie.compile_stan_model()


# ---------------------------------------------------------------------------------------------------------------- names


def variables(*names, shapes=None, info=None):
    return stan_variables([list(n) for n in names], shapes, declared_variables(info))


def test_column_major_names():
    (matrix,) = variables(["m.1.1", "m.2.1", "m.1.2", "m.2.2", "m.1.3", "m.2.3"])
    assert (matrix.name, matrix.shape) == ("m", (2, 3))
    taken = matrix.take(np.arange(12.0).reshape(2, 6))
    np.testing.assert_array_equal(taken[0], [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(taken[1], [[6, 8, 10], [7, 9, 11]])


def test_names_that_begin_alike():
    found = variables(["a.1", "a.2", "ab.1", "a_b"], ["b.1.1"])
    assert [(v.name, v.shape, v.block) for v in found] == [
        ("a", (2,), 0),
        ("ab", (1,), 0),
        ("a_b", (), 0),
        ("b", (1, 1), 1),
    ]
    values = np.arange(5.0)[None]
    assert [v.take(values).ravel().tolist() for v in found] == [[0, 1], [2], [3], [4]]


def test_complex_elements_are_pairs():
    (z,) = variables(["z.1.real", "z.1.imag", "z.2.real", "z.2.imag"])
    assert (z.shape, z.is_complex) == ((2,), True)
    np.testing.assert_array_equal(z.take(np.array([[1.0, 10.0, 2.0, 20.0]])), [[1 + 10j, 2 + 20j]])
    flat = np.zeros(4)
    z.put(np.array([3 - 1j, 4 - 2j]), flat)
    np.testing.assert_array_equal(flat, [3, -1, 4, -2])


def test_arrays_of_tuples():
    names = ["t.1:1", "t.1:2.1", "t.1:2.2", "t.2:1", "t.2:2.1", "t.2:2.2"]
    one, two = variables([], [], names)
    assert (one.name, one.shape, one.block, one.root) == ("t:1", (2,), 2, "t")
    assert (two.name, two.shape) == ("t:2", (2, 2))
    np.testing.assert_array_equal(two.take(np.arange(6.0)[None])[0], [[1, 2], [4, 5]])


def test_variables_without_elements_are_where_they_were_declared():
    shapes = "0 a\n0 none 0 3\n0 b 2\n1 z 0 2\n"
    info = {
        "parameters": {
            "a": {"type": "real", "dimensions": 0},
            "none": {"type": "real", "dimensions": 2},
            "b": {"type": "real", "dimensions": 1},
        },
        "transformed parameters": {"z": {"type": "complex", "dimensions": 1}},
    }
    names = (["a", "b.1", "b.2"], [], [])
    found = variables(*names, shapes=shapes, info=info)
    assert [(v.name, v.shape, v.is_complex) for v in found] == [
        ("a", (), False),
        ("none", (0, 3), False),
        ("b", (2,), False),
        ("z", (0,), True),
    ]
    assert found[1].take(np.zeros((5, 3))).shape == (5, 0, 3)
    assert found[3].take(np.zeros((5, 3))).shape == (5, 0)
    # What is known without the one or the other.
    assert [v.shape for v in variables(*names, info=info)] == [(), (0, 0), (2,), (0,)]
    assert [v.name for v in variables(*names, shapes=shapes)] == ["a", "none", "b", "z"]
    assert [v.name for v in variables(*names)] == ["a", "b"]


# ---------------------------------------------------------------------------------------------------------------- seeds


def test_seeds_of_draws_differ():
    contexts = [DrawContext(seed, chain, np.arange(5000), warmup=False) for seed in (1, 2) for chain in range(4)]
    seeds = [context.seeds32() for context in contexts]
    assert all(s.dtype == np.uint32 for s in seeds)
    assert len(np.unique(np.concatenate(seeds[:4]))) == 20_000
    assert not np.array_equal(seeds[0], seeds[4])
    # They look random: bits are even, and neighbours have nothing in common.
    bits = (seeds[0][:, None] >> np.arange(32, dtype=np.uint32)) & 1
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.04
    changes = ((seeds[0][1:] ^ seeds[0][:-1])[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    assert np.abs(changes.mean(axis=0) - 0.5).max() < 0.04
    # A draw has its seed wherever it is looked at.
    part = DrawContext(1, 2, np.array([17, 4000]), warmup=False)
    np.testing.assert_array_equal(part.seeds32(), seeds[2][[17, 4000]])
