"""Data, dimensions and coordinates of Stan programs."""

from __future__ import annotations

import decimal
import json

import numpy as np
import pytest
from stan_programs import SCHOOLS, SHAPES

import nutpie
from nutpie import _lib
from nutpie.models._stan_data import checked_data, explain_refusal, to_json

WANTED = {
    "n": {"type": "int", "dimensions": 0},
    "counts": {"type": "int", "dimensions": 1},
    "x": {"type": "real", "dimensions": 0},
    "table": {"type": "real", "dimensions": 2},
    "c": {"type": "complex", "dimensions": 1},
    "pair": {"type": [{"type": "int", "dimensions": 0}, {"type": "real", "dimensions": 1}], "dimensions": 0},
    "pairs": {"type": [{"type": "int", "dimensions": 0}, {"type": "real", "dimensions": 0}], "dimensions": 1},
}

GIVEN = {
    "n": 3,
    "counts": [1, 2, 3],
    "x": 0.5,
    "table": [[1.0, 2.0], [3.0, 4.0]],
    "c": [1 + 2j, 3],
    "pair": (1, [2.0]),
    "pairs": [(1, 2.0), (3, 4.0)],
}


def written(**changes):
    return json.loads(to_json(checked_data(GIVEN | changes, WANTED)))


def test_json():
    assert written() == {
        "n": 3,
        "counts": [1, 2, 3],
        "x": 0.5,
        "table": [[1, 2], [3, 4]],
        "c": [[1, 2], [3, 0]],
        "pair": {"1": 1, "2": [2.0]},
        "pairs": [{"1": 1, "2": 2.0}, {"1": 3, "2": 4.0}],
    }
    assert to_json(checked_data({"x": 1e-300 + 0.1}, None)) == json.dumps({"x": 0.1})


@pytest.mark.parametrize(
    ("name", "value", "result"),
    [
        ("n", np.int8(3), 3),
        ("n", True, 1),
        ("n", 3.0, 3),
        ("n", np.array(4), 4),
        ("counts", np.array([1.0, 2.0]), [1, 2]),
        ("counts", range(3), [0, 1, 2]),
        ("counts", (1, 2), [1, 2]),
        ("counts", [True, False], [1, 0]),
        ("counts", [], []),
        ("x", 2, 2),
        ("x", np.float32(0.5), 0.5),
        ("x", decimal.Decimal("0.25"), 0.25),
        ("x", np.inf, np.inf),
        ("table", [], []),
        ("table", np.zeros((0, 3)), []),
        ("table", np.zeros((2, 0)), [[], []]),
        ("table", np.asfortranarray([[1, 2, 3], [4, 5, 6]]), [[1, 2, 3], [4, 5, 6]]),
        ("c", [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ("pair", {"1": 5, "2": [1]}, {"1": 5, "2": [1]}),
        ("pair", [5, []], {"1": 5, "2": []}),
    ],
)
def test_what_is_taken(name, value, result):
    assert written(**{name: value})[name] == result


def test_pandas():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]})
    found = written(counts=frame["a"], table=frame)
    assert found["counts"] == [1, 2]
    assert found["table"] == [[1, 0.5], [2, 1.5]]
    with pytest.raises(ValueError, match=r"'counts' whole numbers with 1 dimension, the value is NaN at \[1\]"):
        written(counts=pd.Series([1, None], dtype="Int64"))
    with pytest.raises(ValueError, match="'counts' whole numbers with 1 dimension, not Series"):
        written(counts=pd.Series(["a", "b"], dtype="category"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": 1}, "there is no variable in the data block named 'y'; there are"),
        ({"tabel": 1}, "there is no variable in the data block named 'tabel'; did you mean 'table'"),
        ({"n": 2.5}, "'n' a whole number, the value is 2.5"),
        ({"n": [1]}, r"'n' a whole number, not a value of shape \(1,\)"),
        ({"n": "three"}, "'n' a whole number, not str 'three'"),
        ({"n": None}, "'n' a whole number, the value is NaN"),
        ({"n": 2**31}, "'n' a whole number, the value is .*, more than 32 bits"),
        ({"counts": 1}, r"'counts' whole numbers with 1 dimension, not a value of shape \(\)"),
        ({"counts": [1, 2.5]}, r"'counts' whole numbers with 1 dimension, the value is 2.5 at \[1\]"),
        ({"x": np.nan}, "'x' a real number, the value is NaN: Stan has no missing values"),
        ({"x": 1j}, "'x' a real number, not complex 1j"),
        ({"x": np.datetime64("2020-01-01")}, "'x' a real number, not datetime64"),
        ({"table": [[1, np.nan]]}, r"'table' real numbers with 2 dimensions, the value is NaN at \[0, 1\]"),
        ({"table": [[1, 2], [3]]}, "'table' real numbers with 2 dimensions, not rows of different lengths"),
        ({"table": [1.0]}, r"'table' real numbers with 2 dimensions, not a value of shape \(1,\)"),
        ({"c": 1.0}, r"'c' complex numbers with 1 dimension, not a value of shape \(\)"),
        ({"pair": 1}, "'pair' a tuple of a whole number, real numbers with 1 dimension, not int 1"),
        ({"pair": (1,)}, "'pair' a tuple of"),
        ({"pair": (1.5, [2])}, "'pair:1' a whole number, the value is 1.5"),
        ({"pairs": 3}, "'pairs' an array with 1 dimension of a tuple of a whole number, a real number, not int 3"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        checked_data(GIVEN | changes, WANTED)


def test_missing_data():
    given = {name: value for name, value in GIVEN.items() if name not in ("n", "table")}
    with pytest.raises(ValueError, match=r"wants 'n' \(a whole number\), 'table' \(real numbers with 2 dimensions\), "):
        checked_data(given, WANTED)


def test_unknown_words_of_stan_are_passed_on():
    assert explain_refusal("something else", {}) == "Stan does not take the data: something else"


# ------------------------------------------------------------------------------------------------------------ programs


def test_stan_checks_shapes_and_ranges(eight_schools_noncentered):
    program = eight_schools_noncentered
    with pytest.raises(ValueError, match=r"'y' a value of shape \(8,\), not \(7,\)"):
        program.with_data(SCHOOLS, y=SCHOOLS["y"][1:])
    with pytest.raises(ValueError, match=r"Stan does not take the data: sigma\[2\] is -1, but must be greater"):
        program.with_data(SCHOOLS, sigma=[1, -1, 1, 1, 1, 1, 1, 1])
    with pytest.raises(ValueError, match="J is -1, but must be greater than or equal to 0"):
        program.with_data(SCHOOLS, J=-1)
    with pytest.raises(ValueError, match=r"no data yet: call with_data.* 'J', 'y', 'sigma'"):
        nutpie.sample(program, progress_bar=False)
    assert program.with_data(J=0, y=[], sigma=[]).n_dim == 2


def test_without_a_known_data_block(eight_schools_noncentered, shapes):
    program = nutpie.compile_stan_model(library=eight_schools_noncentered.library)
    assert program.toolchain == "library"
    assert program.data_names is None
    with pytest.raises(ValueError, match="wants 'J', which the data lack"):
        program.density()
    with pytest.raises(ValueError, match="wants 'sigma', which the data lack"):
        program.with_data(J=8, y=SCHOOLS["y"])
    with pytest.raises(ValueError, match="wants for 'J' whole numbers"):
        program.with_data(SCHOOLS, J=8.5)
    with pytest.raises(ValueError, match=r"'y' a value of shape \(8,\), not \(1, 8\)"):
        program.with_data(SCHOOLS, y=[SCHOOLS["y"]])
    with pytest.raises(ValueError, match="'y' numbers, the value is NaN at"):
        program.with_data(SCHOOLS, y=[np.nan] * 8)
    model = program.with_data(SCHOOLS)
    assert model.stan_version == eight_schools_noncentered.stan_version
    found = model.with_dims(theta="school").variables
    assert [v.dims for v in found if v.name == "theta"] == [("school",)]
    other = nutpie.compile_stan_model(library=shapes.library).with_data(SHAPES)
    with pytest.raises(ValueError, match=r"'cs' a value of shape \(2, 3\), not \(3, 2\)"):
        other.with_data(SHAPES, cs=np.ones((3, 2), dtype=complex))
    # Shapes come from the library, and what is complex from the names of elements.
    known, unknown = (
        {v.name: (v.shape, v.dtype) for v in model.variables if v.name != "no_complexes"}
        for model in (shapes.with_data(SHAPES), other)
    )
    assert known == unknown


def test_json_file(eight_schools_noncentered, tmp_path):
    path = tmp_path / "schools.json"
    path.write_text(json.dumps(SCHOOLS))
    assert eight_schools_noncentered.with_data(path).n_dim == 10
    assert eight_schools_noncentered.with_data(str(path), J=1, y=[2.0], sigma=[1.0]).n_dim == 3
    with pytest.raises(FileNotFoundError, match=r"there is no file of data .*none.json"):
        eight_schools_noncentered.with_data("none.json")
    with pytest.raises(TypeError, match=r"with_data\(\) takes the data by name, a dict of them, .*, not list"):
        eight_schools_noncentered.with_data([8, SCHOOLS["y"], SCHOOLS["sigma"]])
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="holds list, names with values are needed"):
        eight_schools_noncentered.with_data(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        eight_schools_noncentered.with_data(path)


def test_data_are_those_of_stan(shapes):
    # All types arrive: the program adds up to these names.
    model = shapes.with_data(SHAPES)
    assert model.with_data(SHAPES, nothing=np.zeros((2, 0)), table=np.array(SHAPES["table"], dtype=float)).n_dim == 18
    groups = model.data_groups()["constant_data"]
    np.testing.assert_array_equal(groups["cs"], SHAPES["cs"])
    assert "pair" not in groups  # a tuple is no array


def test_seed_of_transformed_data(shapes):
    def noise(**seed):
        return float(shapes.with_data(SHAPES, **seed).expand(np.zeros((1, 18)))["of_data"][0])

    assert noise() == noise(seed=0)
    assert noise(seed=1) != noise(seed=0)
    for seed, error in ((-1, ValueError), (2**32, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="seed must be"):
            shapes.with_data(SHAPES, seed=seed)


def test_new_data_leave_the_old_model_alone(eight_schools_noncentered):
    eight = eight_schools_noncentered.with_data(SCHOOLS)
    point = np.zeros(10)
    density = eight.density()
    before = _lib.evaluate(density.address, density.user_data, point)
    two = eight.with_data(J=2, y=[1.0, 2.0], sigma=[1.0, 1.0])
    assert (two.n_dim, eight.n_dim) == (4, 10)
    density = eight.density()
    after = _lib.evaluate(density.address, density.user_data, point)
    np.testing.assert_array_equal(before[1], after[1])


def test_dims_and_coords_in_any_order(eight_schools_noncentered):
    program = eight_schools_noncentered
    steps = {
        "data": lambda m: m.with_data(SCHOOLS),
        "dims": lambda m: m.with_dims(theta=["school"], theta_trans="school", y=["school"]),
        "coords": lambda m: m.with_coords(school=list("abcdefgh")),
    }
    found = []
    for order in (("data", "dims", "coords"), ("coords", "dims", "data"), ("dims", "data", "coords")):
        model = program
        for step in order:
            model = steps[step](model)
        found.append((model.dims, {k: list(v) for k, v in model.coords.items()}, model.data_dims()))
    assert found[0] == found[1] == found[2]
    dims, coords, data_dims = found[0]
    assert dims == {"theta": ("school",), "theta_trans": ("school",)}
    assert coords == {"school": list("abcdefgh")}
    assert data_dims == {"y": ("school",)}
    # New data of another length, then the coordinates for them.
    fewer = model.with_data(J=2, y=[1.0, 2.0], sigma=[1.0, 1.0])
    with pytest.raises(ValueError, match=r"coords: 'school' has 8 values, but is 2 long in 'theta'"):
        nutpie.sample(fewer, progress_bar=False)
    idata = nutpie.sample(
        fewer.with_coords(school=["a", "b"]), draws=5, tune=5, chains=1, progress_bar=False, check=False
    )
    assert list(idata.posterior.coords["school"].values) == ["a", "b"]


def test_dims_are_checked(eight_schools_noncentered):
    program = eight_schools_noncentered
    with pytest.raises(ValueError, match="dims: there is no variable 'thetta'; did you mean 'theta'"):
        program.with_dims(thetta="school")
    with pytest.raises(ValueError, match=r"dims: 'mu' has shape \(\), and the names of its dimensions are \('a',\)"):
        program.with_dims(mu="a").with_data(SCHOOLS).density()
    with pytest.raises(ValueError, match="coords: the values of 'school' must be in one dimension"):
        program.with_coords(school=[["a"]])
    with pytest.raises(ValueError, match="dims: there is no variable 'x'"):
        nutpie.compile_stan_model(library=program.library, dims={"x": ["a"]}).with_data(SCHOOLS).density()
