"""The tree of `examples/tree.py`: guided simulation by hyperiax inside of a NumPyro model, against a grid."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import nutpie

pytest.importorskip("numpyro")
pytest.importorskip("hyperiax")

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/tree.py"


@pytest.fixture(scope="module")
def tree():
    spec = importlib.util.spec_from_file_location("tree", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_posterior_of_the_tree(tree):
    import arviz as az

    leaves = tree.simulate()
    published = tree.grid_means(leaves, tree.NARROW, n=200)
    np.testing.assert_allclose(published, [0.4669, 0.3721], atol=1e-4)
    compiled = nutpie.from_numpyro(tree.model, leaves)
    assert compiled.n_dim == 33
    result = nutpie.sample(compiled, draws=400, seed=3, check=False, progress_bar=False)
    assert int(result.sample_stats["diverging"].sum()) == 0
    log_theta = result.posterior["log_theta"].values
    exact = tree.grid_means(leaves)
    low, high = np.array(tree.NARROW).T
    inside = ((log_theta > low) & (log_theta < high)).all(-1)
    assert inside.mean() > 0.95
    for i in range(2):
        theta = np.exp(log_theta[..., i])
        error = float(np.squeeze(az.mcse(theta)))
        assert error < 0.05
        assert abs(theta.mean() - exact[i]) < 4 * error
        assert abs(theta[inside].mean() - published[i]) < 4 * error
    # The noise is independent of the parameters, and the nodes at the leaves are near what was observed.
    z = result.posterior["z"].values
    assert np.abs(z.mean((0, 1))).max() < 0.2
    assert np.abs(z.std((0, 1)) - 1).max() < 0.15
    nodes = result.posterior["nodes"].values.mean((0, 1))
    assert np.corrcoef(nodes[-16:], leaves[:, 0])[0, 1] > 0.95
