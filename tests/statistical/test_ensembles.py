"""Ensembles on the models of references/001 from three kinds of starts, with ten seeds each."""

from __future__ import annotations

import pytest
from ensemble_models import STARTS, check_against, item_response, radon

import nutpie

MODELS = {"item response": item_response, "radon": radon}


@pytest.fixture(scope="module", params=MODELS)
def long_run(request):
    model = MODELS[request.param]()
    run = nutpie.sample(model, draws=5000, seed=8, progress_bar=False, check=False, save_warmup=False)
    return model, run.posterior["x"].values


@pytest.mark.parametrize("metric", ["diag", "low_rank"])
@pytest.mark.parametrize("kind", STARTS)
def test_any_start_will_do(long_run, kind, metric):
    model, reference = long_run
    for seed in range(10):
        starts = STARTS[kind](model.n_dim, seed)
        options = {"sampler": "meads", "meads_metric": metric, "draws": 300, "progress_bar": False, "check": False}
        result = nutpie.sample(model, seed=seed, init=starts, save_warmup=False, **options)
        check_against(result, reference)
