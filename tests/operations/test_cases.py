"""Situations of operation and the tests that hold what is right in each.

Each test is named as file::function; a renamed or removed one fails here.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
STORE, PROMOTION = "tracking/test_store.py", "registry/test_promotion.py"

COVERED: dict[str, tuple[str, ...]] = {
    "the checkout moved to another path": ("operations/doctor/test_copied_state.py::test_moved_checkout_keeps_its_services",),
    "the experiment deleted in MLflow's page": (
        f"{STORE}::test_deleted_experiment_names_its_cure_which_works",
        f"{STORE}::test_poll_for_new_data_starts_no_run_without_experiment",
    ),
    "the champion's version or alias removed by hand": (
        f"{PROMOTION}::test_deleted_champion_is_replaced_by_the_previous_one",
        f"{PROMOTION}::test_safest_champion_stays_where_the_champion_is_deleted",
        f"{PROMOTION}::test_sole_champion_that_is_deleted_is_not_promoted_again",
        f"{PROMOTION}::test_champion_without_its_alias_is_still_compared_with",
    ),
    "the champion's files removed from MLflow's store": (
        f"{PROMOTION}::test_lost_champion_files_are_reported_and_verdicts_stay",
        f"{PROMOTION}::test_champion_files_lost_for_good_are_named",
    ),
    "zeros in an object of DVC's cache, or half of it": (
        "storage/test_integrity.py::test_damaged_file_of_a_folder_is_removed",
        "storage/test_integrity.py::test_damaged_list_of_a_folder_is_removed",
    ),
    "a copy of a checkout with services at work": (
        "operations/doctor/test_copied_state.py::test_copied_state_gives_no_addresses",
        "operations/doctor/test_copied_state.py::test_commands_of_copy_name_the_original",
    ),
    "the checkout as a folder of a larger repository": ("operations/cleaning/test_needed.py::test_commits_of_a_larger_repository_count",),
    "scalars that two readers of YAML take for two values": (
        "config/test_reading.py::test_scalar_is_refused_where_libraries_differ",
        "config/test_reading.py::test_seed_of_two_meanings_names_file_and_line",
    ),
    "marks of a merge in a file of DVC or in the settings": (
        "storage/test_conflicts.py::test_conflicted_file_is_named_with_its_cure",
        "storage/test_conflicts.py::test_doctor_finds_every_conflicted_file",
        "config/test_reading.py::test_text_that_is_no_settings_is_refused",
    ),
    "a full disk while checkpoints are written": ("engine/test_full_disk.py::",),
}


@pytest.mark.parametrize("situation", COVERED)
def test_situation_has_its_tests(situation: str) -> None:
    for named in COVERED[situation]:
        file, _, function = named.partition("::")
        tree = ast.parse((TESTS / file).read_text("utf-8"))
        names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        assert function in names if function else names
