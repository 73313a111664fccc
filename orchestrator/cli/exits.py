"""What each exit code of `chargehand` means; scripts may rely on them."""

OK = 0
FAILED = 1
WRONG_REQUEST = 2
UNAVAILABLE = 3
TIMED_OUT = 4
# sysexits' EX_SOFTWARE: a mistake of ours, not of the caller or of a service.
BROKEN = 70
# 128 + SIGINT and 128 + SIGPIPE, as shells count.
INTERRUPTED = 130
PIPE_CLOSED = 141

MEANINGS = {
    OK: "done",
    FAILED: "the run failed or was cancelled, or a check found something wrong",
    WRONG_REQUEST: "the request was wrong; the message says what to change",
    UNAVAILABLE: "a service does not answer; try again later",
    TIMED_OUT: "the run had not ended when the waiting time was over; it goes on",
    BROKEN: "a mistake in Chargehand; the message says where the traceback is",
    INTERRUPTED: "interrupted with Ctrl-C",
}


def epilogue() -> str:
    """The codes as the end of a help page."""
    return "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in MEANINGS.items()) + "."
