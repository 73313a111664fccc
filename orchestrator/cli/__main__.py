"""`python -m chargehand.orchestrator.cli`: the command where its script is not on the path."""

from chargehand.orchestrator.cli import main

if __name__ == "__main__":
    main()
