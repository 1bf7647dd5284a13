"""One sampler on one workload, in the environment of the sampler; `run.py` starts it."""

import argparse
import importlib
import json
import pathlib
import sys
import warnings

import numpy as np
from runners import Settings
from workloads import WORKLOADS, UnavailableError

#: Exit status that tells `run.py` that the data of the workload are not on this machine.
UNAVAILABLE = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runner", help="module in runners/")
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("folder", type=pathlib.Path, help="where draws and counts go")
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    for name in ("chains", "draws", "tune"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    try:
        workload = WORKLOADS[arguments.workload]()
    except UnavailableError as reason:
        print(reason, file=sys.stderr)
        sys.exit(UNAVAILABLE)
    settings = Settings(chains=arguments.chains, draws=arguments.draws, tune=arguments.tune)
    sample = importlib.import_module(f"runners.{arguments.runner}").prepare(workload, settings)
    for seed in arguments.seeds:
        run = sample(seed)
        counts = {name: value for name, value in vars(run).items() if name != "draws"}
        np.save(arguments.folder / f"{seed}.npy", run.draws[:, :, workload.scored])
        # Last, because it tells that the seed is done.
        (arguments.folder / f"{seed}.json").write_text(json.dumps({"seed": seed, **counts}))


if __name__ == "__main__":
    main()
