"""Chargehand: a supervisor for agents on Celery, Redis and Postgres."""
