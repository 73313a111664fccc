"""The HTTP API: runs, questions, memory, audit and schedules, for programs and pages."""
