"""The checks of `mmalign doctor`: environment, machine, checkout, services, and leftovers of earlier runs."""
