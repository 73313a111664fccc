"""What Chargehand says of itself to monitoring: metrics, traces, and the fields of log lines."""
