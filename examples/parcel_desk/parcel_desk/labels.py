"""Labels for the printer at the counter."""

import subprocess

PRINTERS = ("counter", "backroom")


def label_text(code: str, city: str) -> str:
    return f"*** {code} ***\n{city.upper()}\n"


def print_label(code: str, printer: str) -> int:
    """Print the stored label of a parcel and give the exit code of `lp`."""
    finished = subprocess.run(f"lp -d {printer} labels/{code}.txt", shell=True, check=False)
    return finished.returncode
