"""The router's HTTP interface.

In reading order: `server.py` (the process, from its start to its shutdown), `gateway.py` (the ASGI application) with
`auth.py`, `v2.py` (protocol v2), `openapi.py` (the OpenAPI document).
"""
