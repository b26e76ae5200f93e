"""HTTP around the router.

In reading order: `server.py` (the process, from the warm-up to its end), `gateway.py` (the application: what every
request passes first) with `auth.py`, `app.py` (the router's own routes), `v2.py` (protocol v2), `bodies.py` and
`openapi.py` (all of it as an OpenAPI document).
"""
