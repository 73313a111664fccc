"""Webhooks: what a tenant's own servers are told, signed, until they have heard it."""
