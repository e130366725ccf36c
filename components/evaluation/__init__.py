"""How good the models are: runs, judges, figures with intervals."""
