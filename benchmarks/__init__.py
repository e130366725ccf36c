"""One module a claim: each measures its claim in one run and prints the numbers as a table, or with --json as one object."""
