"""Fast sampling from posterior distributions.

Compile a model with one of the ``compile_*`` functions and pass it to `sample`; the result is an ArviZ object.
"""

from __future__ import annotations

import importlib
import importlib.resources
from typing import TYPE_CHECKING, Any

from nutpie._lib import __version__

# Not at first use: module and function have the same name, and the module must not hide the function.
from nutpie.diagnose import SamplingWarning, diagnose
from nutpie.progress import STOP, ChainProgress
from nutpie.sample import sample

if TYPE_CHECKING:
    from nutpie.gradient import check_gradient
    from nutpie.metric_plots import plot_metric
    from nutpie.models.function import from_logp, from_pyfunc
    from nutpie.models.jax import from_jax
    from nutpie.models.laplace import laplace
    from nutpie.models.native import from_cfunc, from_library
    from nutpie.models.numpyro import from_numpyro
    from nutpie.models.pymc import compile_pymc_model
    from nutpie.models.source import from_source
    from nutpie.models.stan import compile_stan_model, prune_stan_cache
    from nutpie.nested import nested_r_hat
    from nutpie.plots import plot_run

__all__ = [
    "STOP",
    "ChainProgress",
    "SamplingWarning",
    "__version__",
    "check_gradient",
    "compile_pymc_model",
    "compile_stan_model",
    "diagnose",
    "from_cfunc",
    "from_jax",
    "from_library",
    "from_logp",
    "from_numpyro",
    "from_pyfunc",
    "from_source",
    "include_dir",
    "laplace",
    "nested_r_hat",
    "plot_metric",
    "plot_run",
    "prune_stan_cache",
    "sample",
]

#: Names that are imported at first use, so that `import nutpie` stays quick.
_LAZY = {
    "check_gradient": "nutpie.gradient",
    "compile_pymc_model": "nutpie.models.pymc",
    "compile_stan_model": "nutpie.models.stan",
    "from_jax": "nutpie.models.jax",
    "from_numpyro": "nutpie.models.numpyro",
    "from_source": "nutpie.models.source",
    "laplace": "nutpie.models.laplace",
    "from_cfunc": "nutpie.models.native",
    "from_library": "nutpie.models.native",
    "from_logp": "nutpie.models.function",
    "from_pyfunc": "nutpie.models.function",
    "nested_r_hat": "nutpie.nested",
    "plot_metric": "nutpie.metric_plots",
    "plot_run": "nutpie.plots",
    "prune_stan_cache": "nutpie.models.stan",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'nutpie' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


def include_dir() -> str:
    """Folder of the C header ``nutpie.h``, for the include path of a compiler."""
    return str(importlib.resources.files("nutpie") / "include")
