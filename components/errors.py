"""What went wrong, and whose it is to mend."""


class UserError(ValueError):
    """A mistake in input or settings: one sentence that says what, where and what to do. The command exits with 2."""


class StageFault(RuntimeError):
    """A stage failed for a reason that is not the user's input. The command exits with 1 and names the log."""
