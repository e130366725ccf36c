"""One module a claim: each measures it in one run and prints the numbers, for a reader as a table or with --json as one object."""
