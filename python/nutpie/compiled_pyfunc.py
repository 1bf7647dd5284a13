"""Where the older package has `from_pyfunc`; here it is `nutpie.from_pyfunc`."""

from nutpie.models.function import PyFuncModel, from_pyfunc

__all__ = ["PyFuncModel", "from_pyfunc"]
