"""Submit the plan, follow it, answer the gate: `python -m billing 7`."""

import sys

from rich import print

from billing.plan import refund_plan
from chargehand import Client, RunFailed
from chargehand.orchestrator.facts import StepFinished, TaskSent


def main() -> None:
    """Print what happens, until the run has ended."""
    plan = refund_plan(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
    with Client() as client:
        run = client.submit(plan=plan, roles=plan.roles)
        for event in run.events():
            if isinstance(event.fact, TaskSent):
                print("sent", event.fact.task_id)
            elif isinstance(event.fact, StepFinished):
                print(event.fact.outcome, event.fact.result or event.fact.error)
            elif event.kind == "step.waiting":
                for asked in client.escalations(run.run_id):
                    choice = ""
                    while choice not in asked.options:
                        choice = input(f"{asked.question} ({' or '.join(asked.options)}) ")
                    client.answer(asked, choice)
        try:
            run.result()
            print("Done.")
        except RunFailed as failed:
            print("Not done:", failed)


if __name__ == "__main__":
    main()
