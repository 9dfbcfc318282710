"""The errors that a user can mend, and the exit codes."""

# Exit codes: what the user got wrong, what broke, what the user interrupted, a training that was
# asked to stop and can be resumed (sysexits' EX_TEMPFAIL: try again), and one that has lost a rank
# (EX_UNAVAILABLE).
USER_ERROR, FAILURE, INTERRUPTED, RESUMABLE, RANK_LOST = 2, 1, 130, 75, 69


class UserError(Exception):
    """Something that the user got wrong, said so that it can be mended.

    The message is shown alone, without a traceback, and the process ends with exit code 2.
    It names the file, field or rank concerned, and the remedy.
    """


class SharedError(UserError):
    """A `UserError` that is raised on all ranks alike, so that one of them tells it for all."""

    exit_code = USER_ERROR


class SharedFailureError(SharedError):
    """Something that broke without the user's doing, found by all ranks alike."""

    exit_code = FAILURE
