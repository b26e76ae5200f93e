"""HTTP and gRPC around the router.

In reading order: `gateway.py` (what every request passes first, and v2 over gRPC) with `auth.py`, `app.py` (routes, and
protocol v1), `v2.py` (protocol v2), `bodies.py` and `openapi.py` (all of it as an OpenAPI document), `server.py` (the
process, from the warm-up to its end).
"""
