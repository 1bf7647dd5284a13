"""Fixtures that the tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from simple_model import NormalModel


@pytest.fixture(autouse=True, scope="session")
def interrupts() -> Iterator[None]:
    """Let an interrupt be one, also in processes that were started in the background, which ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def model() -> NormalModel:
    return NormalModel(5)
