"""The page about a run: reports/report.html, one file without a network, rendered from what a run left behind."""
