"""Slots of this machine, shared by all its checkouts and users: one a GPU, and one for training on the CPU."""
