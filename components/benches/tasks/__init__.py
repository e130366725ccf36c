"""Task definitions for lmms-eval of benchmarks that it does not have. lmms-eval reads this folder; only `answers.py` and `chair.py` are Python."""
