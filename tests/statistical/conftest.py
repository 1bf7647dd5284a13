"""The tests in this folder take minutes; they run when asked for by marker, folder or not."""

import os
from pathlib import Path

import pytest

REASON = "takes minutes: run with `-m statistical`, or set NUTPIE_STATISTICAL=1"


def pytest_collection_modifyitems(config, items):
    wanted = "statistical" in (config.option.markexpr or "") or os.environ.get("NUTPIE_STATISTICAL")
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.statistical)
            if not wanted:
                item.add_marker(pytest.mark.skip(reason=REASON))
