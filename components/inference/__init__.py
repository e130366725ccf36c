"""Stages that train nothing, spread over processes: planned batches, shared out, kept as they are done."""
