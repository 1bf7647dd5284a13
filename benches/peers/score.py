"""Bulk ESS and rank R-hat of saved draws, the same code for all samplers; `run.py` starts it in our environment."""

import json
import pathlib
import sys
import warnings

import arviz
import numpy as np


def score(draws):
    """Mean and least ESS, and greatest R-hat, over the last axis of draws of shape (chains, draws, parameters)."""
    parameters = [draws[:, :, k] for k in range(draws.shape[-1])]
    ess = np.array([arviz.ess(x, method="bulk") for x in parameters])
    rhat = np.array([arviz.rhat(x, method="rank") for x in parameters])
    return {"ess_mean": float(ess.mean()), "ess_min": float(ess.min()), "rhat_max": float(rhat.max())}


def main():
    warnings.simplefilter("ignore")
    folder = pathlib.Path(sys.argv[1])
    records = []
    for path in sorted(folder.glob("*.json"), key=lambda path: int(path.stem)):
        draws = np.load(path.with_suffix(".npy"))
        records.append({**json.loads(path.read_text()), **score(draws)})
    print(json.dumps(records))


if __name__ == "__main__":
    main()
