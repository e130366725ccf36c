"""The formats in which teams hold preferences, one file a format, and how a file's format is recognized."""
