"""Fixtures that the tests share."""

from __future__ import annotations

import pytest
from simple_model import NormalModel


@pytest.fixture
def model() -> NormalModel:
    return NormalModel(5)
