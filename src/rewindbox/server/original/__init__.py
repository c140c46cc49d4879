"""The HTTP API of the original, over the same vms, policy, history and points as our own.

Clients of the original work unchanged. They are many and differ, so requests are taken as widely as is safe, and
answers have each value under every name that one of them looks for. A number is read from the system or null. None of
it is in our OpenAPI: docs/original-api.md has it.
"""

from rewindbox.server.original import pool, runs, sessions, sockets, vms

ROUTES = (vms.routes, runs.routes, pool.routes, sessions.routes, sockets.routes)
"""Every group of routes."""
