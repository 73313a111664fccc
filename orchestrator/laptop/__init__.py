"""Everything that sets up and runs Chargehand on one machine."""
