"""Refuses bad rows one by one and bad batches whole; each message names the place of the fault."""
