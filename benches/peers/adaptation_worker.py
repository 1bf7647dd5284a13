"""Samples and scores for `adaptation.py`, in the environment of a sampler, until its input ends.

Each line of input is a request in JSON and gets a line of output in JSON: `{"prepare": workload}` compiles a density,
and `{"seed", "chains", "draws", "tune", "options"}` runs it. A density compiled once serves all settings and seeds.
"""

import json
import os
import sys
import time
import traceback
import warnings

import numpy as np
from measures import estimates, score
from runners import Settings
from runners.nutpie_raw import Sampler
from workloads import WORKLOADS, UnavailableError

#: Means of so many quantities are kept with each run.
KEPT = 30


def compared(workload, draws):
    """Means with their errors, and of the references, of the first quantities; and the worst deviation in errors.

    Each estimate is (mean, error), followed by mean and error of the reference where there is one.
    """
    reference = workload.reference()
    quantities = workload.quantities(draws)
    names = list(reference) or list(quantities)[:KEPT]
    found = estimates({name: quantities[name] for name in names})
    worst, deviation = "", 0.0
    for name, (mean, sd, error) in reference.items():
        own_mean, own_error = found[name]
        z = (own_mean - mean) / np.hypot(own_error, error)
        if not abs(z) <= deviation:
            worst, deviation = name, abs(float(z))
        found[name] += [mean, error, sd]
    out = {"estimates": {name: found[name] for name in names[:KEPT]}}
    return {**out, "z_max": deviation, "z_name": worst} if reference else out


def answer(sampler, request):
    settings = Settings(*(request[key] for key in ("chains", "draws", "tune", "options")))
    begin = time.perf_counter()
    run = sampler(request["seed"], settings, save_warmup=False)
    wall = time.perf_counter() - begin
    workload = sampler.workload
    counts = {name: value for name, value in vars(run).items() if name != "draws"}
    if not np.isfinite(run.draws).all():
        raise RuntimeError("there are draws that are not finite")
    record = {**counts, "wall_seconds": wall, "dim": workload.dim, **score(run.draws[:, :, workload.scored])}
    return {**record, **compared(workload, run.draws)}


def main():
    warnings.simplefilter("ignore")
    # Whatever else prints must not get between the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sampler = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                sampler = None
                sampler = Sampler(WORKLOADS[request["prepare"]]())
                reply = {}
            else:
                reply = answer(sampler, request)
        except UnavailableError as reason:
            reply = {"unavailable": str(reason)}
        except Exception as error:  # A run that fails is a result.
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
