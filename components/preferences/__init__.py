"""The record of a query with its ranked responses, and its import and export formats."""
