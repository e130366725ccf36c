"""A backup of what a checkout keeps outside git: its record, artifacts, settings, passwords; and the way back from one."""
