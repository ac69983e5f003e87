from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from browser.chromium import Chromium


@pytest.fixture(scope="module")
async def chromium(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chromium]:
    """One browser for all tests of a module; each opens tabs of its own."""
    async with Chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield browser
