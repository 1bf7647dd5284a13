"""Extension of griffe: functions decorated with ``@document`` are described as they are at run time.

Griffe reads source files, in which the declared settings are not yet in the docstring and the signature.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import griffe


class RuntimeDocs(griffe.Extension):
    """Takes docstring and keywords from the function itself."""

    def on_function(self, *, func: griffe.Function, **_kwargs: Any) -> None:
        """Replace what was read from the source."""
        if not any(decorator.callable_path.endswith(".document") for decorator in func.decorators):
            return
        function = getattr(importlib.import_module(func.module.path), func.name)
        if func.docstring is not None:
            func.docstring.value = inspect.getdoc(function) or ""
        for name, parameter in inspect.signature(function).parameters.items():
            if name not in func.parameters:
                func.parameters.add(
                    griffe.Parameter(
                        name,
                        annotation=str(parameter.annotation),
                        kind=griffe.ParameterKind.keyword_only,
                        default=repr(parameter.default),
                    )
                )
        del func.parameters["settings"]
