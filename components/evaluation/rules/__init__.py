"""Rules that judge short answers in six languages: right where they answer, silent elsewhere (docs/judges.md)."""
