"""HTTP around the router.

In reading order: `gateway.py` (what every request passes first) with `auth.py`, `app.py` (routes, and
protocol v1), `v2.py` (protocol v2), `bodies.py` and `openapi.py` (all of it as an OpenAPI document), `server.py` (the
process, from the warm-up to its end).
"""
