"""Brings preferences of any of the formats into data/preferences: files and archives, rows to queries, media, the report."""
