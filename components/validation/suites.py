"""Great Expectations over the accepted rows: one suite a table, as code, with data docs.

- Earlier checks read rows one by one; the suites check the batch: relations between rows, and statistics of a table.
- A failed critical expectation fails the stage; the stage logs and counts a warning; info appears only in the data docs.
- Nothing is sent: analytics and progress bars are off, and the context is in memory. Importing the library takes seconds: only this module does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from components.files import write_atomic
from components.preferences.record import CATEGORIES
from components.preferences.release import HIGHEST_SCORE, LOWEST_SCORE

os.environ["GX_ANALYTICS_ENABLED"] = "false"  # before the import, which reads it
import great_expectations as gx
import great_expectations.expectations as gxe
from great_expectations.data_context.types.base import ProgressBarsConfig

if TYPE_CHECKING:
    from components.config.validate import ValidateSettings

Severity = Literal["critical", "warning", "info"]
SHA256 = r"^[0-9a-f]{64}(?: [0-9a-f]{64})*$"  # of each medium

# What Great Expectations' templates load from other servers: scripts, styles, icons and a logo.
FROM_NETWORK = re.compile(
    r"""<script\b[^>]*\bsrc=[^>]*>\s*</script>|<(?:link|img)\b[^>]*\b(?:href|src)=["']?(?:https?:)?//[^>]*>|url\(["']?(?:https?:)?//[^)]*\)""",
    re.IGNORECASE,
)
POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'\">"
)
STYLE = (
    "<style>body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 75rem } "
    "td, th { border: 1px solid #ccc; padding: .3rem; vertical-align: top }</style>"
)


@dataclass(frozen=True)
class Finding:
    """A failed expectation: its table, its description, and its severity."""

    table: str
    expected: str
    severity: Severity


def query_suite(settings: ValidateSettings) -> Any:
    """The expectations of the table of queries."""
    return gx.ExpectationSuite(
        name="queries",
        expectations=[
            gxe.ExpectTableRowCountToBeBetween(min_value=2, **_expect("critical", "there are queries to train on and to hold out")),
            gxe.ExpectColumnDistinctValuesToEqualSet(
                column="split", value_set=["train", "heldout"], **_expect("critical", "both splits have queries")
            ),
            gxe.ExpectColumnValuesToBeUnique(column="id", **_expect("critical", "ids are unique")),
            gxe.ExpectColumnValuesToBeBetween(column="splits_of_id", max_value=1, **_expect("critical", "no id stands in both splits")),
            gxe.ExpectColumnValuesToBeBetween(
                column="splits_of_content", max_value=1, **_expect("critical", "no media and prompt stand in both splits")
            ),
            gxe.ExpectColumnValuesToBeInSet(column="category", value_set=list(CATEGORIES), **_expect("critical", "categories are known")),
            gxe.ExpectColumnValuesToBeInSet(
                column="safety", value_set=["harmful", "harmless"], **_expect("critical", "safety labels are known")
            ),
            gxe.ExpectColumnValuesToMatchRegex(column="media_digest", regex=SHA256, **_expect("critical", "media carry their sha256")),
            gxe.ExpectColumnValuesToBeBetween(column="prompt_characters", min_value=1, **_expect("critical", "prompts are not empty")),
            gxe.ExpectColumnValuesToBeBetween(
                column="responses", min_value=settings.min_responses, **_expect("critical", "queries have enough responses")
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="pairs", min_value=1, mostly=0.8, **_expect("warning", "at least 80 % of queries have a pair of different ranks")
            ),
            gxe.ExpectColumnMeanToBeBetween(
                column="best_is_longest", max_value=0.8, **_expect("warning", "the best answer is the longest in at most 80 % of queries")
            ),
            gxe.ExpectColumnProportionOfUniqueValuesToBeBetween(
                column="content", min_value=0.5, **_expect("warning", "at least half of media and prompts are different")
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="splits_of_category", min_value=2, **_expect("warning", "every category stands in both splits")
            ),
            gxe.ExpectColumnDistinctValuesToEqualSet(
                column="category", value_set=list(CATEGORIES), **_expect("info", "all five categories are there")
            ),
            gxe.ExpectColumnMeanToBeBetween(column="has_tie", min_value=0.01, max_value=0.9, **_expect("info", "some queries hold a tie")),
        ],
    )


def response_suite(settings: ValidateSettings, *, critiqued: bool) -> Any:
    """The expectations of the table of responses. Rows that have no critique at all are trained without, so that none is expected."""
    reasons = gxe.ExpectColumnValuesToNotBeNull(
        column="reason_characters",
        mostly=0.9,
        **_expect("warning", "at least 90 % of responses have a reason to learn critiques from"),
    )
    return gx.ExpectationSuite(
        name="responses",
        expectations=[
            gxe.ExpectCompoundColumnsToBeUnique(column_list=["id", "response"], **_expect("critical", "a response stands once in a query")),
            gxe.ExpectColumnValuesToBeBetween(column="rank", min_value=1, **_expect("critical", "ranks begin at 1")),
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A="responses", column_B="rank", or_equal=True, **_expect("critical", "no rank exceeds the number of responses")
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="characters",
                min_value=1,
                max_value=settings.max_response_characters,
                **_expect("critical", "responses are neither empty nor over-long"),
            ),
            *(
                gxe.ExpectColumnValuesToBeBetween(
                    column=score, min_value=LOWEST_SCORE, max_value=HIGHEST_SCORE, **_expect("critical", f"{score} is between 1 and 5")
                )
                for score in ("faithfulness", "helpfulness", "ethics")
            ),
            *([reasons] if critiqued else []),
            gxe.ExpectColumnValuesToNotBeNull(column="faithfulness", mostly=0.5, **_expect("info", "most responses have scores")),
        ],
    )


def check_tables(queries: pd.DataFrame, responses: pd.DataFrame, settings: ValidateSettings, docs: Path) -> list[Finding]:
    """Validate both tables, write data docs into the folder `docs` (index.html), and return the failed expectations."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    for site in context.get_site_names():
        context.delete_data_docs_site(site)
    context.add_data_docs_site("data_docs", _site(docs))
    source = context.data_sources.add_pandas("preferences")
    findings = []
    critiqued = bool(responses["reason_characters"].notna().any())
    for suite, frame in ((query_suite(settings), queries), (response_suite(settings, critiqued=critiqued), responses)):
        batch = source.add_dataframe_asset(suite.name).add_batch_definition_whole_dataframe("accepted")
        definition = gx.ValidationDefinition(name=suite.name, data=batch, suite=context.suites.add(suite))
        checkpoint = gx.Checkpoint(
            name=suite.name, validation_definitions=[context.validation_definitions.add(definition)], result_format="SUMMARY"
        )
        outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame})
        for validation in outcome.run_results.values():
            findings += _findings(suite.name, validation.results)
    context.build_data_docs(site_names=["data_docs"])
    _link_plainly(docs)
    for page in docs.rglob("*.html"):
        write_atomic(page, self_contained(page.read_text(encoding="utf-8")))
    return findings


def _expect(severity: Severity, expected: str) -> dict[str, Any]:
    return {"severity": severity, "notes": expected}


def _findings(table: str, results: Sequence[Any]) -> list[Finding]:
    failed = [result.expectation_config for result in results if not result.success]
    return [Finding(table, str(config.notes), config.severity.value) for config in failed]


def _link_plainly(docs: Path) -> None:
    """Link the pages on the first one: scripts draw its own lists, and none runs."""
    pages = sorted(page.relative_to(docs).as_posix() for part in ("validations", "expectations") for page in (docs / part).rglob("*.html"))
    links = "".join(f'<li><a href="{page}">{page.split("/")[0]}: {page.split("/")[1].removesuffix(".html")}</a></li>' for page in pages)
    index = docs / "index.html"
    head, body, rest = index.read_text(encoding="utf-8").partition("<body>")
    write_atomic(index, f"{head}{body}<ul>{links}</ul>{rest}")


def self_contained(page: str) -> str:
    """A page of the data docs that loads nothing from a network, and runs no script: its policy forbids both."""
    return FROM_NETWORK.sub("", page).replace("<head>", f"<head>{POLICY}{STYLE}", 1)


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
    }
