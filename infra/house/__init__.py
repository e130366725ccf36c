"""Checks of the house that no linter brings, and its measures. `make lint` and `make lines` run them."""
