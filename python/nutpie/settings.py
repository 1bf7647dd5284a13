"""The keywords of the sampler: declared in the Rust core, checked and documented here."""

from __future__ import annotations

import difflib
import inspect
import numbers
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nutpie import _lib
from nutpie._arguments import choice

__all__ = ["ONLY_WITH", "ONLY_WITH_SAMPLER", "POOLED", "Setting", "declared", "document", "resolve", "shown_default"]

#: Keywords of the older package of this name, of PyMC and of Stan that are something else here, and what to use.
OTHER_NAMES = {
    "num_draws": "use draws=...",
    "num_tune": "use tune=...",
    "num_chains": "use chains=...",
    "num_samples": "use draws=...",
    "num_warmup": "use tune=...",
    "iter_sampling": "use draws=...",
    "iter_warmup": "use tune=...",
    "random_seed": "use seed=...",
    "progressbar": "use progress_bar=...",
    "show_progress": "use progress_bar=...",
    "discard_tuned_samples": "use save_warmup=...",
    "max_treedepth": "use maxdepth=...",
    "max_depth": "use maxdepth=...",
    "adapt_delta": "use target_accept=...",
    "initvals": "use init=...",
    "inits": "use init=...",
    "init_mean": "it had no effect in the older package; use init=... to choose the starts",
    "low_rank_modified_mass_matrix": "use adaptation='low_rank', or leave it to the default",
    "transform_adapt": "there is nothing like it here; adaptation=... chooses the kind of the inverse mass matrix",
    "use_grad_based_mass_matrix": "use adaptation='draw_diag' for the variances of the draws alone",
    "mass_matrix_switch_freq": "use window_switch_freq=...",
    "train_on_orbit": "there is nothing like it here",
    "step_size_adapt_method": "the step size is adapted by dual averaging",
    "step_size_adam_learning_rate": "the step size is adapted by dual averaging",
    "mindepth": "trajectories end at the first U-turn",
    "check_turning": "trajectories end at the first U-turn",
    "extra_doublings": "trajectories end at the first U-turn",
    "target_integration_time": "trajectories end at the first U-turn",
    "microcanonical_trajectory": "there is nothing like it here",
    "exact_normal_trajectory": "use integrator='exact_normal'",
    "store_transformed": "use store_unconstrained=True, store_gradient=True and store_mass_matrix=True",
    "return_raw_trace": "the result is always an ArviZ object",
    "zarr_store": "call to_zarr() of the result",
    "progress_template": "the display chooses its form; use progress_callback=... for one of your own",
    "progress_style": "the display chooses its form; use progress_callback=... for one of your own",
}

#: Adaptations in which chains pool what they know.
POOLED = ("auto", "low_rank", "dense")
_WINDOWS = ("diag", "draw_diag", "low_rank_windows")

#: Settings that have no effect but with these adaptations.
ONLY_WITH = {
    "pool": POOLED,
    "early_maxdepth": POOLED,
    **dict.fromkeys(
        ("early_window_switch_freq", "window_switch_freq", "window_growth", "early_fraction", "final_fraction"),
        (*POOLED, *_WINDOWS),
    ),
    **dict.fromkeys(("mass_matrix_eigval_cutoff", "max_rank"), ("auto", "low_rank", "low_rank_windows")),
    "mass_matrix_gamma": ("low_rank_windows",),
}

#: Settings that have no effect but with these samplers.
ONLY_WITH_SAMPLER: dict[str, tuple[str, ...]] = {}
for _name, _, _own in _lib.samplers():
    for _setting in _own:
        ONLY_WITH_SAMPLER[_setting] = (*ONLY_WITH_SAMPLER.get(_setting, ()), _name)
        ONLY_WITH[_setting] = POOLED


class Setting(NamedTuple):
    """Declaration of a keyword."""

    name: str
    default: bool | int | float | str
    min: float
    max: float
    doc: str
    choices: Sequence[str] = ()

    @property
    def type(self) -> type:
        """The type of its values."""
        return type(self.default)


def declared() -> dict[str, Setting]:
    """Return all settings of the sampler by name, with default, bounds and documentation."""
    return {s[0]: Setting(*s) for s in _lib.settings()}


def resolve(
    given: Mapping[str, Any], *, adaptation: str = "", sampler: str = "", other_keywords: Iterable[str] = ()
) -> dict[str, int | float | str]:
    """Check settings that a user gave.

    Parameters
    ----------
    given
        Values by name.
    adaptation, sampler
        The adaptation and the sampler that they are for; any by default.
    other_keywords
        Further keywords that the caller knows, to suggest when a name is mistyped.

    Returns
    -------
    dict
        The values with the types that the core wants.

    Raises
    ------
    TypeError
        For an unknown name, with the nearest one, and for a value that is not a number of the right type.
    ValueError
        For a value out of bounds, and for a setting that has no effect with this adaptation or sampler.
    """
    for name in given:
        if name in OTHER_NAMES:
            raise TypeError(f"sample() has no keyword {name!r}: {OTHER_NAMES[name]}")
    known = declared()
    checked = {name: _checked(known, name, value, other_keywords) for name, value in given.items()}
    for argument, value, only in (("adaptation", adaptation, ONLY_WITH), ("sampler", sampler, ONLY_WITH_SAMPLER)):
        for name in checked:
            if value not in ("", *only.get(name, (value,))):
                wanted = " or ".join(map(repr, only[name]))
                raise ValueError(f"{name} has no effect with {argument}={value!r}; it is for {wanted}")
    return checked


def _checked(known: Mapping[str, Setting], name: str, value: Any, other_keywords: Iterable[str]) -> Any:
    if name not in known:
        near = difflib.get_close_matches(name, [*known, *other_keywords], n=1, cutoff=0.0)
        raise TypeError(f"sample() has no keyword {name!r}; did you mean {near[0]!r}?")
    setting = known[name]
    if setting.type is bool:
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, not {value!r}")
        return bool(value)
    if setting.choices:
        choice(name, value, setting.choices)
        return value
    wanted = numbers.Integral if setting.type is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, wanted):
        kind = "a whole number" if setting.type is int else "a number"
        raise TypeError(f"{name} must be {kind}, not {value!r}")
    if not setting.min <= float(value) <= setting.max:
        raise ValueError(f"{name} must be between {setting.min:g} and {setting.max:g}, not {value!r}")
    return setting.type(value)


def document(function: Callable[..., Any]) -> Callable[..., Any]:
    """Put the declared settings into signature and docstring of a function that takes them as ``**settings``."""
    signature = inspect.signature(function)
    fixed = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    own = [
        inspect.Parameter(s.name, inspect.Parameter.KEYWORD_ONLY, default=s.default, annotation=s.type.__name__)
        for s in declared().values()
    ]
    function.__signature__ = signature.replace(parameters=[*fixed, *own])  # type: ignore[attr-defined]
    lines = [f"{s.name} : {_shown_type(s)}, default {shown_default(s)}\n{_wrapped(s.doc)}" for s in declared().values()]
    text = inspect.cleandoc(function.__doc__ or "")
    function.__doc__ = text.replace(
        "**settings\n    Settings of the sampler, listed by `nutpie.settings`.", "\n".join(lines)
    )
    return function


def shown_default(setting: Setting) -> str:
    """Write the default for a reader."""
    if isinstance(setting.default, bool):
        return str(setting.default)
    if isinstance(setting.default, str):
        return f'"{setting.default}"'
    return "no limit" if setting.default == setting.max >= 1e9 else f"{setting.default:g}"


def _shown_type(setting: Setting) -> str:
    names = ", ".join(f'"{name}"' for name in setting.choices)
    return f"{{{names}}}" if names else setting.type.__name__


def _wrapped(text: str) -> str:
    return textwrap.indent("\n".join(textwrap.wrap(text, 100)), "    ")
