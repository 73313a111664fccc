"""`python -m post_office KILOGRAMS`: submit the plan and print the advice."""

import sys

from rich import print

from chargehand import Client
from post_office.counter import plan

with Client() as client:
    chosen = plan(round(float(sys.argv[1]) * 1_000))
    print(client.submit(plan=chosen, roles=chosen.roles).wait(timeout_seconds=60))
