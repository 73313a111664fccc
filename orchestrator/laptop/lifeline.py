"""Become a program that does not outlive its parent: `python -I -S lifeline.py PARENT SIGNAL UID:GID PROGRAM ARG…`.

A script of its own, so that it can run before the program is there and without this package: it drops to UID:GID
(`-` keeps the user), asks the kernel for SIGNAL when the parent ends, and replaces itself by PROGRAM.
The kernel means the *thread* that started us, see `spawning`.
"""

import ctypes
import os
import sys

# <linux/prctl.h>
PR_SET_PDEATHSIG = 1
# The parent was gone before we could ask; nobody is left to read the code.
EXIT_PARENT_GONE = 70


def main(arguments: list[str]) -> None:
    """Drop privileges, tie this process to its parent and become the program."""
    parent_pid, death_signal, account, *argv = arguments
    if account != "-":
        uid, gid = (int(number) for number in account.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After the change of user, which would clear it.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(parent_pid):
        sys.exit(EXIT_PARENT_GONE)
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
