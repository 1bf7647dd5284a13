"""Tests in this folder with the marker `statistical` are further shapes and settings; they run when asked for."""

import os
from pathlib import Path

import pytest

REASON = "further cases: run with `-m statistical`, or set NUTPIE_STATISTICAL=1"


def pytest_collection_modifyitems(config, items):
    if "statistical" in (config.option.markexpr or "") or os.environ.get("NUTPIE_STATISTICAL"):
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("statistical"):
            item.add_marker(pytest.mark.skip(reason=REASON))
