"""Every phase of the JAX device against float64 NumPy, for many shapes; what a phase must not touch stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")

from nutpie import _lib  # noqa: E402, F401
from nutpie.devices._jax_device import JaxDevice  # noqa: E402
from nutpie.devices._jax_random import normals, philox  # noqa: E402
from nutpie.models._jax_batch import JaxProgram, precision  # noqa: E402

ROWS, CHAINS = 9, 3

#: Dimensions, with the ranks of the metrics of the chains: 0 is diagonal, and more than half of the dimension is
#: triangular.
SHAPES = [
    (1, (0, 0, 0)),
    (17, (3, 3, 12)),
    *(
        pytest.param((dim, ranks), marks=pytest.mark.statistical)
        for dim, ranks in [
            (2, (1, 0, 0)),
            (7, (0, 2, 2)),
            (16, (16, 1, 0)),
            (1030, (0, 0, 0)),
            (500, (6, 0, 20)),
            (4097, (0, 0, 0)),
        ]
    ),
]


def density(points, constants, _data):
    """A normal distribution with other scales, and a bit more."""
    (scales,) = constants
    return -0.5 * (points**2 * scales).sum(1) - points[:, 0] ** 4, -points * scales - 4 * (
        jax.numpy.arange(points.shape[1]) == 0
    ) * points[:, :1] ** 3


class Twin:
    """A device and the same arrays in NumPy, with metrics as matrices."""

    def __init__(self, dim: int, ranks: tuple[int, ...], dtype: str = "float64") -> None:
        self.rng = np.random.default_rng(dim)
        self.dim = dim
        self.scales = self.rng.uniform(0.5, 2.0, dim)
        program = JaxProgram(density, [self.scales.astype(dtype)], [], dtype, {})
        self.device = JaxDevice(jax.devices("cpu")[0], program, dtype, CHAINS)
        bufs = [self.device.alloc(ROWS, dim) for _ in range(4)]
        self.arrays = [self.rng.normal(size=(ROWS, dim)).astype(dtype).astype(float) for _ in bufs]
        for buf, array in zip(bufs, self.arrays, strict=True):
            self.device.upload(buf, np.arange(ROWS), array)
        of_metrics = [self.device.alloc(CHAINS, dim) for _ in range(3)]
        self.device.alloc_metrics([*of_metrics[:2], 0])
        self.centers = self.rng.normal(size=(CHAINS, dim))
        self.device.upload(of_metrics[2], np.arange(CHAINS), self.centers)
        self.bufs = (*bufs, *of_metrics, 0)
        self.inverse = [self.metric(chain, rank) for chain, rank in enumerate(ranks)]
        self.mass = [np.linalg.inv(m) for m in self.inverse]

    def metric(self, chain: int, rank: int) -> np.ndarray:
        stds = self.rng.uniform(0.5, 2.0, self.dim)
        values = self.rng.uniform(0.2, 5.0, rank)
        vectors = np.linalg.qr(self.rng.normal(size=(self.dim, rank)))[0].T
        matrix = np.diag(stds) @ (np.eye(self.dim) + vectors.T @ ((values - 1)[:, None] * vectors)) @ np.diag(stds)
        diagonal = np.diag(matrix)
        self.device.upload(self.bufs[4], np.array([chain]), diagonal[None])
        self.device.upload(self.bufs[5], np.array([chain]), diagonal[None] ** -0.5)
        if rank:
            self.device.set_coupling(0, chain, 100 + chain, (stds, values, vectors))
        return matrix

    def velocity(self, chain: int, p: np.ndarray) -> np.ndarray:
        return self.inverse[chain] @ p

    def gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        gradient = -x * self.scales
        gradient[0] -= 4 * x[0] ** 3
        return -0.5 * (x**2 * self.scales).sum() - x[0] ** 4, gradient

    def call(self, name, ints, floats=(), *more):
        ints = np.array(ints, dtype=np.int64).reshape(len(ints), -1)
        floats = np.array(floats, dtype=float).reshape(len(ints), -1)
        tables = [np.array(table, dtype=np.int64).reshape(len(table), -1) for table in more]
        empty = [np.zeros((len(table), 0)) for table in tables]
        return getattr(self.device, name)(
            self.bufs, ints, floats, *[t for both in zip(tables, empty, strict=True) for t in both]
        )

    def span(self, chain: int, kick: float, start: int, leaf: int, adjacent: bool) -> list[float]:
        x, p, g, _ = self.arrays
        v = self.velocity(chain, p[start] + p[leaf])
        if not adjacent:
            v = self.velocity(chain, p[start] + p[leaf] + kick * (g[leaf] - g[start]))
            v = (x[leaf] - x[start] + kick * v) / (2 * kick)
        return [v @ p[start], v @ p[leaf]]

    def agree(self, found=None, expected=None, tolerance: float = 1e-11) -> None:
        """Compare all arrays, and what was found."""
        for buf, array in zip(self.bufs, self.arrays, strict=False):
            np.testing.assert_allclose(
                self.device.download(buf).reshape(array.shape), array, rtol=tolerance, atol=tolerance * 10
            )
        if found is not None:
            np.testing.assert_allclose(found, np.ravel(expected), rtol=tolerance * 100, atol=tolerance * 100)


@pytest.fixture(params=SHAPES, ids=str)
def twin(request):
    return Twin(*request.param)


def test_philox_gives_the_known_answers():
    # Of the reference implementation (Random123).
    cases = [
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 2, (2**32 - 1,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    with precision("float64"):
        for key, counter, answer in cases:
            words = philox(
                tuple(np.array([k], np.uint32) for k in key), tuple(jax.numpy.array([c], np.uint32) for c in counter)
            )
            assert tuple(int(word[0]) for word in words) == answer


def test_normals_are_normal_and_do_not_depend_on_the_length():
    with precision("float64"):
        words = np.array([[7, 0, 11, 3, 0], [7, 0, 12, 3, 0]], np.uint32)
        z = np.asarray(normals(words, 200_003))
        np.testing.assert_array_equal(np.asarray(normals(words[1:], 37))[0], z[1, :37])
    n = z[0].size
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((z[0] ** power).mean() - moment) < 5 * (variance / n) ** 0.5
    assert abs((z[0] * z[1]).mean()) < 5 / n**0.5


def test_leapfrog_steps(twin):
    x, p, g, _ = twin.arrays
    # Two steps from row 0 and 3 of chains 0 and 2, one that was begun at row 7 of chain 1; two go on, one passing.
    steps = [(0, 0, 1, 0, 6, 0), (1, 7, 7, 1, 5, 1), (2, 3, 4, 0, -1, 0)]
    floats = [(0.05, 0.1, 0.1), (-0.1, 0.0, -0.2), (-0.05, -0.1, 0.0)]
    spans = [(0, 0, 1), (2, 0, 0), (3, 2, 0), (2, 2, 0), (8, 2, 0)]
    found = twin.call("leapfrog", steps, floats, spans)
    logp, kinetic, dots = [], [], []
    before = p.copy()
    for (chain, start, to, begun, on, passing), (kick, drift, onward) in zip(steps, floats, strict=True):
        if not begun:
            p[to] = p[start] + kick * g[start]
            x[to] = x[start] + drift * twin.velocity(chain, p[to])
        value, g[to] = twin.gradient(x[to])
        logp.append(value)
        p[to] = p[to] + kick * g[to]
        kinetic.append(0.5 * p[to] @ twin.velocity(chain, p[to]))
        if on >= 0:
            p[on] = p[to] + kick * g[to]
            x[on] = x[to] + onward * twin.velocity(chain, p[on])
        if passing:
            p[to] = before[to]
    for start, leaf, adjacent in spans:
        chain, _, to, *_ = steps[leaf]
        dots.append(twin.span(chain, floats[leaf][0], start, to, adjacent > 0))
    twin.agree(found, np.concatenate([logp, kinetic, np.ravel(dots)]))


def test_leaves_alone(twin):
    x, p, g, _ = twin.arrays
    leaves = [(0, 1, 6, 0), (2, 4, -1, 0), (1, 7, 8, 1)]
    floats = [(0.05, 0.1), (-0.05, 0.0), (0.1, -0.2)]
    found = twin.call("finish_leaf", leaves, floats, [(0, 0, 1), (3, 1, 0)])
    kinetic = []
    before = p.copy()
    for (chain, row, on, passing), (kick, onward) in zip(leaves, floats, strict=True):
        p[row] = p[row] + kick * g[row]
        kinetic.append(0.5 * p[row] @ twin.velocity(chain, p[row]))
        if on >= 0:
            p[on] = p[row] + kick * g[row]
            x[on] = x[row] + onward * twin.velocity(chain, p[on])
        if passing:
            p[row] = before[row]
    dots = twin.span(0, 0.05, 0, 1, True) + twin.span(2, -0.05, 3, 4, False)
    twin.agree(found, [*kinetic, *dots])


def test_isokinetic_steps_and_products(twin):
    x, p, g, _ = twin.arrays
    glides, floats = [(0, 0, 1), (1, 3, 3), (2, 5, 4)], [(0.7, 0.4, 0.3), (1.2, -0.1, 0.3), (0.9, 0.2, -0.2)]
    found = twin.call("isokinetic", glides, floats)
    logp, kinetic, dots = [], [], []
    for (chain, start, to), (scale, kick, drift) in zip(glides, floats, strict=True):
        p[to] = scale * p[start] + kick * g[start]
        x[to] = x[start] + drift * twin.velocity(chain, p[to])
        value, g[to] = twin.gradient(x[to])
        v = twin.velocity(chain, p[to])
        logp.append(value)
        kinetic.append(0.5 * v @ p[to])
        dots += [v @ g[to], g[to] @ twin.velocity(chain, g[to])]
    twin.agree(found, [*logp, *kinetic, *dots])
    places = [(chain, to) for chain, _, to in glides]
    twin.agree(twin.call("products", places), [*kinetic, *dots])
    twin.call("glide", [(1, 2, 8)], [(1.0, 0.3, -0.2)])
    p[8] = p[2] + 0.3 * g[2]
    x[8] = x[2] - 0.2 * twin.velocity(1, p[8])
    twin.agree()


def test_exact_normal_steps(twin):
    x, p, g, m = twin.arrays
    twin.call("pull", [(0, 0), (2, 3)])
    for chain, row in [(0, 0), (2, 3)]:
        m[row] = twin.mass[chain] @ (x[row] - twin.centers[chain])
    twin.agree(tolerance=1e-10)
    turns, floats = [(0, 0, 1), (2, 3, 4)], [(0.35, 0.7), (-0.2, -0.4)]
    twin.call("turn", turns, floats)
    for (chain, start, to), (kick, angle) in zip(turns, floats, strict=True):
        kicked, away = p[start] + kick * (g[start] + m[start]), x[start] - twin.centers[chain]
        sin, cos = np.sin(angle), np.cos(angle)
        x[to] = twin.centers[chain] + cos * away + sin * twin.velocity(chain, kicked)
        p[to], m[to] = cos * kicked - sin * m[start], cos * m[start] + sin * kicked
    twin.agree(tolerance=1e-10)
    found = twin.call("finish_turn", turns, floats)
    kinetic = []
    for (chain, _, to), (kick, _) in zip(turns, floats, strict=True):
        p[to] = p[to] + kick * (g[to] + m[to])
        kinetic.append(0.5 * p[to] @ twin.velocity(chain, p[to]))
    twin.agree(found, kinetic, tolerance=1e-10)
    found = twin.call("reach", [(0, 1), (2, 4)], [(-0.4,), (0.3,)], [(0, 0, 0), (5, 0, 0), (3, 1, 0)])
    dots = []
    for chain, half, start, end in [(0, -0.4, 0, 1), (0, -0.4, 5, 1), (2, 0.3, 3, 4)]:
        way = (x[end] - x[start] + half * twin.velocity(chain, p[start] + p[end])) / (2 * half)
        dots.append([way @ p[start], way @ p[end]])
    twin.agree(found, dots, tolerance=1e-10)


def test_momenta(twin):
    _, p, _, _ = twin.arrays
    address = (7, 0, 11, 3, 0)
    found = twin.call("refresh", [(chain, row, *address) for chain, row in [(0, 0), (1, 3), (2, 5)]])
    with precision("float64"):
        z = np.asarray(normals(np.array([address], np.uint32), twin.dim))[0]
    kinetic = []
    for chain, row in [(0, 0), (1, 3), (2, 5)]:
        fresh = twin.device.download_row(twin.bufs[1], row)
        # Whatever the root of the matrix: the energy of a momentum is that of the numbers that it was made of.
        assert 0.5 * fresh @ twin.velocity(chain, fresh) == pytest.approx(0.5 * z @ z, rel=1e-10)
        kinetic.append(0.5 * z @ z)
        p[row] = fresh
    twin.agree(found, kinetic)
    old = p[4].copy()
    found = twin.call("renew", [(1, 4, *address)], [(0.8,)])
    p[4] = 0.8 * old + 0.6 * p[3]
    twin.agree(found, [0.5 * p[4] @ twin.velocity(1, p[4])])


@pytest.mark.parametrize(("dim", "rank"), [(4, 1), (4, 3)])
def test_momenta_have_the_covariance_of_the_metric(dim, rank):
    twin = Twin(dim, (rank, 0, 0))
    draws = []
    for draw in range(500):
        # All rows of the array are of the same chain.
        twin.call("refresh", [(0, row, 7, 0, draw, row, 0) for row in range(8)])
        draws += list(twin.device.download(twin.bufs[1]).reshape(ROWS, dim)[:8])
    white = np.array(draws) @ np.linalg.cholesky(twin.inverse[0])
    np.testing.assert_allclose(np.cov(white.T), np.eye(dim), atol=5 * (2 / len(draws)) ** 0.5)


def test_estimators(twin):
    x, _, g, _ = twin.arrays
    device, bufs = twin.device, twin.bufs
    moments = [device.alloc(4, twin.dim) for _ in range(4)]
    rows = {0: [1, 2, 3, 4, 5], 2: [6, 7, 8]}
    for i in range(5):
        lines = [(row, points[i], i + 1) for row, points in rows.items() if i < len(points)]
        ints = np.array([line[:2] for line in lines])
        device.accumulate((*moments, bufs[0], bufs[2]), ints, np.array([[line[2]] for line in lines], float))
    for buf, array, of_squares in [(0, x, False), (1, x, True), (2, g, False), (3, g, True)]:
        for row, points in rows.items():
            values = array[points]
            expected = ((values - values.mean(0)) ** 2).sum(0) if of_squares else values.mean(0)
            np.testing.assert_allclose(device.download_row(moments[buf], row), expected, atol=1e-12)
    device.set_coupling(0, 1, None)
    device.set_coupling(0, 2, None)
    # The second of the other chain's samples is empty.
    lines, counts = np.array([[1, 0, 2], [2, 2, 2]]), np.array([[5.0, 3.0], [3.0, 0.0]])
    device.fit_fisher_diag((*moments, *bufs[4:7]), lines, counts)
    for chain, points in [(1, rows[0] + rows[2]), (2, rows[2])]:
        together = [array[points] for array in (x, g)]
        inverse = together[0].std(0) / together[1].std(0)
        np.testing.assert_allclose(device.download_row(bufs[4], chain), inverse, rtol=1e-10)
        np.testing.assert_allclose(device.download_row(bufs[5], chain), inverse**-0.5, rtol=1e-10)
        center = together[0].mean(0) + inverse * together[1].mean(0)
        np.testing.assert_allclose(device.download_row(bufs[6], chain), center, rtol=1e-9, atol=1e-9)
        twin.centers[chain], twin.inverse[chain] = center, np.diag(inverse)
        twin.mass[chain] = np.diag(1 / inverse)
    found = twin.call("fisher_distance", [(0, 3), (2, 4), (1, 6)])
    expected = []
    for chain, row in [(0, 3), (2, 4), (1, 6)]:
        z = x[row] - twin.centers[chain] + twin.velocity(chain, g[row])
        expected.append(z @ twin.mass[chain] @ z)
    twin.agree(found, expected)
    twin.call("metric_from_gradient", [(0, 5), (2, 1), (1, 8)])
    for chain, row in [(0, 5), (2, 1), (1, 8)]:
        np.testing.assert_allclose(device.download_row(bufs[4], chain), 1 / abs(g[row]), rtol=1e-12)
        center = x[row] + np.sign(g[row])
        np.testing.assert_allclose(device.download_row(bufs[6], chain), center, rtol=1e-10, atol=1e-12)


def test_gradients_and_copies(twin):
    x, p, g, _ = twin.arrays
    found = twin.device.evaluate((twin.bufs[0], twin.bufs[2]), np.array([[2], [5]]), np.zeros((2, 0)))
    expected = []
    for row in (2, 5):
        value, g[row] = twin.gradient(x[row])
        expected.append(value)
    lines = np.array([[3, 8], [1, 6], [3, 0]])
    twin.device.copy((twin.bufs[0], twin.bufs[1]), lines, np.zeros((3, 0)))
    p[lines[:, 1]] = x[lines[:, 0]]
    twin.agree(found, expected)
    for rows in ([4], [7, 2, 5]):
        found = twin.device.download_rows(twin.bufs[0], np.array(rows))
        np.testing.assert_array_equal(found.reshape(len(rows), -1), x[rows])


def test_energies_are_sums_in_double_precision():
    """In single precision each number is rounded, and sums of a million are not."""
    twin = Twin(1030, (0, 0, 0), "float32")
    p = twin.arrays[1].astype(np.float32).astype(float)
    inverse = twin.device.download_row(twin.bufs[4], 0)
    (kinetic, *_) = twin.call("products", [(0, 2)])
    assert kinetic == pytest.approx(0.5 * (p[2] ** 2 * inverse).sum(), rel=3e-8)
    assert twin.device._arrays[0].dtype == np.float32
