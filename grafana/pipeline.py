"""The dashboard for one pipeline: from its state at this moment down to the process."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Row
from grafana_foundation_sdk.models.dashboard import Dashboard
from panels import page, variable
from surroundings import FRESHNESS, KAFKA, PROCESS_PANELS
from the_line import FLOW, NOW, SINK


def dashboard() -> Dashboard:
    made = (
        page(
            "sluiced-pipeline",
            "sluiced: one pipeline",
            "What one pipeline does, and why. Every panel says what to do where it looks wrong.",
        )
        .with_variable(
            variable(
                "pipeline", "Pipeline", "label_values(sluiced_build_info, pipeline)", several=False
            )
        )
        .with_variable(
            variable(
                "instance",
                "Member",
                'label_values(sluiced_build_info{pipeline="$pipeline"}, instance)',
                several=True,
            )
        )
    )
    for title, panels in (
        ("Now", NOW),
        ("Flow", FLOW),
        ("Sink", SINK),
        ("Freshness and refusals", FRESHNESS),
        ("Kafka", KAFKA),
        ("Process", PROCESS_PANELS),
    ):
        made.with_row(Row(title))
        for panel in panels:
            made.with_panel(panel)
    return made.build()
