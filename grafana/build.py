"""Writes the dashboards: `python grafana/build.py`, or with --check only says whether they are new.

Needs grafana-foundation-sdk, which is among the project's `dev` extras.
"""

from __future__ import annotations

import sys
from pathlib import Path

import fleet
import pipeline
from grafana_foundation_sdk.cog.encoder import JSONEncoder

HERE = Path(__file__).resolve().parent


def main() -> int:
    stale = []
    for name, made in (("pipeline", pipeline.dashboard()), ("fleet", fleet.dashboard())):
        path = HERE / f"sluiced-{name}.json"
        text = JSONEncoder(sort_keys=True, indent=2).encode(made) + "\n"
        if path.exists() and path.read_text() == text:
            continue
        stale.append(path.name)
        if "--check" not in sys.argv:
            path.write_text(text)
    if "--check" in sys.argv and stale:
        print(f"{', '.join(stale)}: not what grafana/build.py makes; run it")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
