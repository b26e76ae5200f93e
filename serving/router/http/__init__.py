"""HTTP around the router.

In reading order: `server.py` (the process, from the warm-up to its end), `gateway.py` (the application) with `auth.py`,
`v2.py` (protocol v2), `openapi.py` (all of it as an OpenAPI document).
"""
