"""Backs up and restores a checkout's state outside git: record, artifacts, settings and passwords."""
