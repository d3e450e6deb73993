"""Show a finished build in Prefect's pages: counts by family and reason, some triplets, and where its own pages are."""

from __future__ import annotations

import shlex
from base64 import b64encode
from pathlib import Path

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from flows.make.run import Finished
from flows.view.attempts import count_outcomes
from flows.view.markdown import as_code, as_text
from flows.view.refresh import Views
from flows.view.sheet import draw_triplets


def show_build(finished: Finished, views: Views) -> None:
    """Create the artifacts of a build: `build-summary`, `families`, `reasons`, and `triplets` where any were kept.

    Raises:
        BadRequest: The index is damaged.
    """
    layout = finished.layout
    create_markdown_artifact(
        markdown=_summary(finished, views), key="build-summary", description="What was made, and where"
    )
    # Prefect's pages take every text of a table for Markdown
    create_table_artifact(
        table=[
            {as_text(name): as_text(value) if isinstance(value, str) else value for name, value in row.items()}
            for row in count_outcomes(layout)
        ],
        key="families",
        description="Samples by family: planned, kept, and rejected by reason",
    )
    reasons = [
        {"reason": as_text(reason), "samples": count}
        for reason, count in finished.manifest["counts"]["by_reason"].items()
    ]
    create_table_artifact(
        table=reasons or [{"reason": "nothing was rejected", "samples": 0}],
        key="reasons",
        description="Rejected samples by reason",
    )
    if triplets := draw_triplets(layout):
        create_image_artifact(
            image_url=f"data:image/jpeg;base64,{b64encode(triplets).decode()}",
            key="triplets",
            description="Some kept samples: real photograph (of a fusion the background), mask, composite",
        )


def _summary(finished: Finished, views: Views) -> str:
    run = finished.layout.run
    lines = [
        f"- run: {as_code(run)}",
        f"- report: {_link(views.report)}",
        f"- gallery: {_link(views.gallery) if views.gallery else 'write it by ' + _command('gallery', run)}",
        f"- statistics: {_link(views.statistics) if views.statistics else 'write them by ' + _command('statistics', run)}",
    ]
    return "\n".join(
        [
            as_text(finished.summary),
            "",
            *lines,
            "",
            "Browsers follow no link from a server to a file: copy the address of a page into a new tab.",
        ]
    )


def _link(page: Path) -> str:
    """Return a page's address, as text that can be copied and as a link."""
    return f"[{as_text(page.as_uri())}]({page.as_uri()})"


def _command(name: str, run: Path) -> str:
    return as_code(f"hcoco {name} {shlex.quote(str(run))}")
