"""Posteriors of posteriordb as PyMC models, and where their data and references are."""

import json
import os
from pathlib import Path

import numpy as np
import pymc as pm
import pytest

#: The folder that holds ``posteriordb``: given, or beside the repository.
SHARED = Path(os.environ.get("NUTPIE_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def _load(path):
    path = SHARED / "posteriordb" / path
    if not path.exists():
        pytest.skip(f"{path} is not there; set NUTPIE_SHARED to the folder that holds posteriordb")
    return json.loads(path.read_text())


def reference(name):
    """Return mean, sd and quantiles by parameter name, such as ``beta[1]``."""
    return _load(f"reference/{name}.json")


def _data(name):
    return {key: np.array(value) for key, value in _load(f"data/{name}.json").items()}


def eight_schools_noncentered():
    data = _data("eight_schools")
    with pm.Model() as model:
        tau = pm.HalfCauchy("tau", 5)
        mu = pm.Normal("mu", 0, 5)
        raw = pm.Normal("theta_trans", 0, 1, shape=8)
        theta = pm.Deterministic("theta", mu + tau * raw)
        pm.Normal("y", theta, data["sigma"], observed=data["y"])
    return model


def eight_schools_centered():
    data = _data("eight_schools")
    with pm.Model() as model:
        tau = pm.HalfCauchy("tau", 5)
        mu = pm.Normal("mu", 0, 5)
        theta = pm.Normal("theta", mu, tau, shape=8)
        pm.Normal("y", theta, data["sigma"], observed=data["y"])
    return model


def kidscore_interaction():
    data = _data("kidiq")
    with pm.Model() as model:
        beta = pm.Flat("beta", shape=4)
        sigma = pm.HalfCauchy("sigma", 2.5)
        mean = beta[0] + beta[1] * data["mom_hs"] + beta[2] * data["mom_iq"]
        mean += beta[3] * (data["mom_hs"] * data["mom_iq"])
        pm.Normal("kid_score", mean, sigma, observed=data["kid_score"])
    return model


def blr():
    data = _data("sblrc")
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 10, shape=5)
        sigma = pm.HalfNormal("sigma", 10)
        pm.Normal("y", data["X"] @ beta, sigma, observed=data["y"])
    return model


def ark():
    data = _data("arK")
    order, y = int(data["K"]), data["y"]
    lags = np.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], axis=1)
    with pm.Model() as model:
        alpha = pm.Normal("alpha", 0, 10)
        beta = pm.Normal("beta", 0, 10, shape=order)
        sigma = pm.HalfCauchy("sigma", 2.5)
        pm.Normal("y", alpha + lags @ beta, sigma, observed=y[order:])
    return model


def logmesquite():
    data = _data("mesquite")
    d1, d2 = data["diam1"], data["diam2"]
    columns = [
        np.ones(len(d1)),
        np.log(d1 * d2 * data["canopy_height"]),
        np.log(d1 * d2),
        np.log(d1 / d2),
        np.log(data["total_height"]),
        data["group"],
    ]
    with pm.Model() as model:
        beta = pm.Flat("beta", shape=6)
        sigma = pm.HalfFlat("sigma")
        pm.Normal("log_weight", np.stack(columns, axis=1) @ beta, sigma, observed=np.log(data["weight"]))
    return model


def radon(*, centred):
    data = _data("radon_mn")
    groups = int(data["J"])
    with pm.Model() as model:
        sigma_alpha = pm.HalfNormal("sigma_alpha", 1)
        sigma_y = pm.HalfNormal("sigma_y", 1)
        mu_alpha = pm.Normal("mu_alpha", 0, 10)
        beta = pm.Normal("beta", 0, 10, shape=2)
        if centred:
            alpha = pm.Normal("alpha", mu_alpha, sigma_alpha, shape=groups)
        else:
            raw = pm.Normal("raw", 0, 1, shape=groups)
            alpha = pm.Deterministic("alpha", mu_alpha + sigma_alpha * raw)
        mean = alpha[data["county_idx"] - 1] + beta[0] * data["log_uppm"] + beta[1] * data["floor_measure"]
        pm.Normal("log_radon", mean, sigma_y, observed=data["log_radon"])
    return model
