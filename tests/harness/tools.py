"""Programs that a test needs and that do not come with `pip install`."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

# Where Debian has them; .ci/run installs all of these.
PACKAGES = {
    "chromium": "chromium",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "systemd-analyze": "systemd",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "initdb": "postgresql",
}


def require(
    tool: str, *, found: bool, why: str = "", environment: Mapping[str, str] = os.environ
) -> None:
    """Ends the test where `tool` was not found: as skipped, or as failed where CI=true."""
    if found:
        return
    package = PACKAGES.get(tool)
    text = f"no {tool}: {why or f'apt-get install {package}'}"
    if environment.get("CI") == "true":
        pytest.fail(f"required in CI, but there is {text}", pytrace=False)
    pytest.skip(text)
