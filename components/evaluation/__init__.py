"""How good the models are: runs, judges, metrics with intervals."""
