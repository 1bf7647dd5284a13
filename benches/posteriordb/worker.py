"""Compiles or samples one program; `run.py` starts it in a process of its own, so that a crash is one of its lines.

    python worker.py SAMPLER REQUEST.json RESULT.npz

REQUEST holds what `run.py` writes into it. A peer runs in an environment of its own; it may get the library that this
package has made of the program, so that both sample the same density.
"""

import json
import pathlib
import re
import sys
import time
import warnings

import numpy as np


def main():
    name, request_path, result_path = sys.argv[1:]
    # What is behind the colon is a sampler of this package.
    sampler, _, kernel = name.partition(":")
    request = json.loads(pathlib.Path(request_path).read_text()) | {"kernel": kernel or "nuts"}
    warnings.simplefilter("ignore")
    result = {"compile": compile_ours, "ours": sample_ours, "nutpie_peer": sample_peer, "pystan": sample_pystan}[
        sampler
    ](request)
    facts = json.dumps(result.pop("facts"))
    np.savez(result_path, facts=facts, **result)


def compile_ours(request):
    import nutpie

    started = time.perf_counter()
    compiled = compiled_ours(nutpie, request)
    facts = {
        "compile_s": time.perf_counter() - started,
        "library": str(compiled.library),
        "stan": compiled.stan_version,
    }
    return {"facts": facts}


def compiled_ours(nutpie, request):
    return nutpie.compile_stan_model(
        filename=request["program"], toolchain=request["toolchain"], progress_bar=False, prune_cache=False
    )


def sample_ours(request):
    import arviz  # noqa: F401 (the peer has imported it, too, before the time counts)

    import nutpie

    compiled = compiled_ours(nutpie, request)
    wanted = compiled.data_names
    # posteriordb has data for several programs in one file.
    data = {name: value for name, value in request["data"].items() if wanted is None or name in wanted}
    model = compiled.with_data(data)
    settings = {"draws": request["draws"], "chains": request["chains"], "seed": request["seed"], "check": False}
    settings["sampler"] = request["kernel"]
    if request["tune"] is not None:
        settings["tune"] = request["tune"]
    started = time.perf_counter()
    idata = nutpie.sample(model, progress_bar=False, save_warmup=False, **settings)
    seconds = time.perf_counter() - started
    facts = {
        "sample_s": seconds,
        "dim": model.n_dim,
        "gradients": int(idata.posterior.attrs["n_gradients"]),
        "divergences": int(idata.sample_stats["diverging"].sum()),
    }
    return {"facts": facts, **elements(idata.posterior, request["names"])}


def sample_peer(request):
    """The older package of our name, with the library that was compiled already."""
    import bridgestan

    import nutpie

    bridgestan.compile_model = lambda *_args, **_kwargs: pathlib.Path(request["library"])
    compiled = nutpie.compile_stan_model(filename=request["program"], cleanup=False)
    arrays = {k: np.array(v) if isinstance(v, list) else v for k, v in request["data"].items()}
    model = compiled.with_data(**arrays)
    settings = {"draws": request["draws"], "chains": request["chains"], "seed": request["seed"] % 2**32}
    if request["tune"] is not None:
        settings["tune"] = request["tune"]
    started = time.perf_counter()
    idata = nutpie.sample(model, progress_bar=False, save_warmup=True, **settings)
    seconds = time.perf_counter() - started
    steps = int(idata.sample_stats["n_steps"].sum()) + int(idata.warmup_sample_stats["n_steps"].sum())
    facts = {
        "sample_s": seconds,
        "dim": model.n_dim,
        "gradients": steps,
        "divergences": int(idata.sample_stats["diverging"].sum()),
    }
    return {"facts": facts, **elements(idata.posterior, request["names"])}


def sample_pystan(request):
    """Stan's own sampler, through pystan; its compilation is part of the time only if it is not in its cache."""
    import stan

    code = pathlib.Path(request["program"]).read_text()
    model = stan.build(code, data=request["data"], random_seed=request["seed"] % 2**31)
    started = time.perf_counter()
    fit = model.sample(num_chains=request["chains"], num_samples=request["draws"], save_warmup=True)
    seconds = time.perf_counter() - started
    n_warmup = 1000
    draws = {}
    for name in fit.param_names:
        values = np.asarray(fit[name])
        flat = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values[None]
        for index, column in zip(np.ndindex(values.shape[:-1]), flat, strict=True):
            # Draws of the chains alternate.
            chains = column.reshape(-1, request["chains"]).T
            draws[element_name(name, index)] = chains[:, n_warmup:]
    steps = np.asarray(fit["n_leapfrog__"])
    divergent = np.asarray(fit["divergent__"]).reshape(-1, request["chains"])[n_warmup:]
    facts = {"sample_s": seconds, "dim": None, "gradients": int(steps.sum()), "divergences": int(divergent.sum())}
    return {"facts": facts, **only(draws, request["names"])}


def elements(posterior, names):
    """Draws by name of an element, such as ``theta[1]``; of the variables in ``names``, or of all."""
    roots = None if names is None else {re.split(r"[\[:]", name)[0] for name in names}
    draws = {}
    for name in posterior.data_vars:
        if roots is not None and name not in roots:
            continue
        values = posterior[name].values
        if values.dtype.kind == "c":
            continue
        for index in np.ndindex(values.shape[2:]):
            draws[element_name(name, index)] = values[(slice(None), slice(None), *index)]
    return only(draws, names)


def element_name(name, index):
    return f"{name}[{','.join(str(i + 1) for i in index)}]" if index else name


def only(draws, names):
    return draws if names is None else {name: draws[name] for name in names if name in draws}


if __name__ == "__main__":
    main()
