"""The slots of this machine, which all its checkouts and users share: one a GPU, and one for training on the CPU."""
