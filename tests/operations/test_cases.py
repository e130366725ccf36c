"""Situations of operation and the tests that hold what is right in each.

Each test is named as file::function; a renamed or removed one fails here.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
STORE, LOST = "tracking/test_store.py", "registry/test_lost_champions.py"

COVERED: dict[str, tuple[str, ...]] = {
    "the checkout moved to another path": ("operations/doctor/test_copied_state.py::test_moved_checkout_keeps_its_services",),
    "the experiment deleted in MLflow's page": (
        f"{STORE}::test_deleted_experiment_names_its_cure_which_works",
        f"{STORE}::test_poll_for_new_data_starts_no_run_without_experiment",
    ),
    "the champion's version or alias removed by hand": (
        f"{LOST}::test_deleted_champion_is_replaced_by_the_previous_one",
        f"{LOST}::test_safest_champion_stays_where_the_champion_is_deleted",
        f"{LOST}::test_sole_champion_that_is_deleted_is_not_promoted_again",
        f"{LOST}::test_champion_without_its_alias_is_still_compared_with",
    ),
    "the champion's files removed from MLflow's store": (
        f"{LOST}::test_lost_champion_files_are_reported_and_verdicts_stay",
        f"{LOST}::test_champion_files_lost_for_good_are_named",
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
    "clocks change, or are set": (
        "flows/test_monitor_clocks.py::test_changed_clocks_cause_no_false_notice",
        "flows/test_monitor_clocks.py::test_clock_set_back_and_forth_repeats_no_notice",
        "flows/test_after_run.py::test_summary_counts_where_clock_was_set_back_meanwhile",
        "flows/test_after_run.py::test_run_time_ignores_a_clock_that_is_set",
    ),
    "rows stay broken while new data are looked for": (
        "flows/test_new_data.py::test_failed_run_stays_noted_until_data_change",
        "flows/test_new_data.py::test_fault_of_machine_is_tried_anew_and_reported_once",
        "flows/test_scheduled_run.py::test_broken_rows_are_reported_once",
    ),
    "zeros in an object of DVC's cache, through `mmalign run`": ("flows/test_run.py::test_damaged_result_in_cache_is_made_anew",),
    "a folder named `with space` or `100%mine`": (
        "operations/services/test_supervision.py::test_folder_of_any_name_reaches_services",
        "operations/services/test_up.py::test_up_imports_record_and_survives_down_and_up",
    ),
    "the pid in postmaster.pid belongs to another program": (
        "operations/services/test_reused_pid.py::test_note_of_another_program_is_removed",
        "operations/services/test_reused_pid.py::test_database_starts_beside_reused_pid",
    ),
    "a flow run deleted or ended on Prefect's page": (
        "flows/test_scheduled_faults.py::test_run_that_is_ended_on_page_ends_here",
        "flows/test_scheduled_faults.py::test_cancel_ends_run_that_no_server_knows",
    ),
    "the host renamed after `mmalign deploy`": ("flows/test_scheduled_places.py::test_renamed_host_runs_deployments",),
    "a first start of the services on a full disk": (
        "operations/services/test_first_start.py::test_failed_first_start_leaves_no_services",
        "operations/services/test_first_start.py::test_full_disk_is_named",
    ),
    "a schedule that is none, or that never comes": (
        "config/test_schedules.py::test_text_that_is_no_schedule_is_refused",
        "config/test_schedules.py::test_schedule_that_never_comes_is_refused",
        "config/test_schedules.py::test_settings_with_bad_schedule_name_file_and_key",
    ),
    "stages run by `dvc exp run` in a finished checkout": (
        "cli/test_status.py::test_stages_after_last_summary_are_named_and_shown",
        "cli/test_status.py::test_runs_of_two_stages_are_not_called_all",
    ),
    "a checkout that takes no writes, or not of this user": (
        "storage/test_read_only.py::test_read_only_checkout_shows_stale_stages",
        "storage/test_read_only.py::test_doctor_names_unwritable_checkout_and_checks_all_else",
        "storage/test_read_only.py::test_command_that_writes_ends_with_one_sentence",
        "report/test_command.py::test_report_of_read_only_checkout_lies_elsewhere",
    ),
    "a full disk": (
        "engine/test_full_disk.py::test_full_disk_in_a_save_leaves_the_checkpoint_before",
        "flows/test_full_disk.py::test_disk_full_during_run_is_named_and_run_goes_on",
    ),
    "little shared memory, few open files": (
        "operations/preconditions/test_checks.py::test_run_on_a_narrow_machine_is_refused",
        "operations/preconditions/test_checks.py::test_command_works_with_64_open_files",
    ),
    "a port that another program holds, or takes meanwhile": (
        "operations/services/test_ports.py::test_start_on_taken_port_names_program_and_setting",
        "operations/services/test_ports.py::test_port_taken_after_check_ends_the_start",
    ),
    "another user foresees a name in /tmp": (
        "operations/services/test_socket_folder.py::test_folder_that_another_user_may_have_made_is_refused",
    ),
}


@pytest.mark.parametrize("situation", COVERED)
def test_situation_has_its_tests(situation: str) -> None:
    for named in COVERED[situation]:
        file, _, function = named.partition("::")
        tree = ast.parse((TESTS / file).read_text("utf-8"))
        names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        assert function in names if function else names
