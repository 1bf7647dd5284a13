"""Where the arrays of a run live: from the argument ``device`` of `nutpie.sample` to what the core opens."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nutpie import _lib
from nutpie._arguments import choice
from nutpie.models._require import require
from nutpie.models.base import BatchDensity

if TYPE_CHECKING:
    from nutpie.models._jax_batch import JaxProgram
    from nutpie.models.base import Density

__all__ = ["Devices"]

#: The kinds of devices.
KINDS = ("cpu", "jax", "cuda", "opencl")

DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class Devices:
    """The devices of a run.

    Parameters
    ----------
    names
        Their names; blocks of chains are dealt over them.
    dtype
        Precision of the arrays.
    program
        The log density, for JAX.
    """

    names: tuple[str, ...] = ("cpu",)
    dtype: str = "float64"
    program: JaxProgram | None = None

    @classmethod
    def of(cls, device: Any, dtype: str | None, density: Density | BatchDensity) -> Devices:
        """Check what `nutpie.sample` was given.

        Raises
        ------
        TypeError
            If it is no name and no list of names.
        ValueError
            For a name or a device that does not exist, devices that do not go together, a precision that the device
            does not have, and ``"jax"`` with a density that is no function of JAX.
        """
        names = (device,) if isinstance(device, str) else tuple(device) if isinstance(device, list | tuple) else ()
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError(f"device must be a name such as 'cpu' or a list of names, not {device!r}")
        kinds = {_kind(name) for name in names}
        if dtype is not None:
            choice("device_dtype", dtype, DTYPES)
        if len(names) > 1 and (len(kinds) > 1 or "cpu" in kinds):
            raise ValueError(f"device={device!r}: several devices have to be of one kind, and there is one 'cpu'")
        if len(set(names)) < len(names):
            raise ValueError(f"device={device!r} names a device twice")
        if kinds == {"cpu"} and dtype == "float32":
            raise ValueError("device_dtype='float32' is not for device='cpu', which computes in double precision")
        if kinds != {"jax"}:
            for name in names:
                _lib.check_device(name, dtype == "float32")
            return cls(names, dtype or "float64")
        program = density.program if isinstance(density, BatchDensity) else None
        if program is None:
            raise ValueError(
                "device='jax' needs a log density that is a function of JAX: nutpie.from_jax, nutpie.from_numpyro, or "
                "nutpie.compile_pymc_model(model, backend='jax')"
            )
        return cls(names, dtype or program.dtype, program)

    @property
    def on_host(self) -> bool:
        """Whether chains run on threads of the CPU."""
        return self.names[0] == "cpu"

    def grouping(self, chains: int) -> tuple[int, int]:
        """Return the number of threads to use, and that of chains of a block: one block for each device."""
        number = min(len(self.names), chains)
        return number, -(-chains // number)

    def density(self, density: Density | BatchDensity, n_dim: int, chains: int) -> Density | BatchDensity:
        """Return how a density is evaluated here: by JAX on the GPU that the chains are on, if it is one of JAX."""
        program = density.program if isinstance(density, BatchDensity) else None
        if program is None or not _jax_has(self.names):
            return density
        # Compiled once, for a call of all chains.
        _, per_block = self.grouping(chains)
        return BatchDensity(_lib.DeviceFunction(program.on_arrays(), n_dim, per_block, "cuda"))

    def for_core(self, chains: int) -> list[str | Callable[[], Any]]:
        """Return what the core opens: names, or functions that make devices."""
        if self.program is None:
            return list(self.names)
        _, per_block = self.grouping(chains)
        return _jax_devices(self.names, self.program, self.dtype, per_block)


def _kind(name: str) -> str:
    """Return what comes before the colon, if that is a kind of device."""
    kind, colon, rest = name.partition(":")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"device={name!r} is not available; choose from {', '.join(map(repr, KINDS))}{hint}")
    if colon and kind != "jax" and not rest.isdecimal():
        raise ValueError(f"device={name!r}: after the colon comes the number of the device, as in '{kind}:0'")
    if colon and kind == "cpu":
        raise ValueError(f"device={name!r}: there is one 'cpu', with as many threads as `cores` says")
    return kind


def _jax_has(names: Sequence[str]) -> bool:
    """Whether these are devices of CUDA that JAX has, too."""
    if any(_kind(name) != "cuda" for name in names):
        return False
    import jax

    try:
        found = jax.local_devices(backend="cuda")
    except RuntimeError:
        return False
    return all(int(name.partition(":")[2] or 0) < len(found) for name in names)


def _jax_devices(names: Sequence[str], program: JaxProgram, dtype: str, chains: int) -> list[str | Callable[[], Any]]:
    require("device='jax' needs", "jax", "jax")
    from nutpie.devices._jax_device import JaxDevice

    def maker(place: Any) -> Callable[[], Any]:
        return lambda: JaxDevice(place, program, dtype, chains)

    return [maker(_place(name)) for name in names]


def _place(name: str) -> Any:
    """Return the device of JAX that "jax", "jax:1", "jax:gpu" or "jax:gpu:1" means."""
    import jax

    from nutpie.models._jax_batch import prompt_device

    _, *parts = name.split(":")
    platform = parts.pop(0) if parts and not parts[0].isdecimal() else None
    index = parts.pop(0) if parts else "0"
    if parts or not index.isdecimal() or platform == "":
        raise ValueError(f"device={name!r} is not of the form 'jax', 'jax:1', 'jax:gpu' or 'jax:gpu:1'")
    try:
        found = jax.devices(platform)
    except RuntimeError as error:
        raise ValueError(f"device={name!r}: JAX has no platform {platform!r} here ({error})") from None
    if int(index) >= len(found):
        raise ValueError(f"device={name!r}: JAX has {len(found)} of these here, numbered from 0: {found}")
    chosen = found[int(index)]
    # Where the thread that asks for a call makes it, a call takes half the time.
    prompt = prompt_device(single=False) if chosen.platform == "cpu" and int(index) == 0 else None
    return chosen if prompt is None else prompt
