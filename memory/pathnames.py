"""File names as git gives them (bytes) and as people, JSON and Postgres can hold them (text without surprises)."""

import os
import re

# Control characters would break a table or a terminal; a lone surrogate is refused by UTF-8, JSON and Postgres.
_UNSHOWABLE = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029]")


def shown(name: bytes | str) -> str:
    """Give the name as printable text: bytes that are not UTF-8 and control characters become backslash escapes.

    Ordinary names come back unchanged. Two different names may be shown alike; open files by their bytes.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return _UNSHOWABLE.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


def is_odd(name: bytes | str) -> bool:
    """Whether `shown` has to change the name."""
    return os.fsencode(name) != shown(name).encode()
