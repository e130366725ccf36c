"""The record of a query with its ranked responses, and the formats it comes in and goes out by."""
