r"""The A/B router: in front of the policies of an experiment, as a model on KServe's ModelServer.

    python -m serving.router --run-config router.yaml
    curl localhost:8080/v1/models/ads:predict -H 'content-type: application/json' -d \
      '{"instances": [{"user_id": "u1", "campaign_id": "spring", "context": {"hour": 14, "device": "phone"}}]}'

    POST /v1/models/ads:predict   POST /v2/models/ads/infer   decisions, 1 to 64 a request
    POST /v1/outcomes             what became of them; cost settles a reservation, cancel gives it back
    GET  /health/live|ready|startup   probes                  GET  /metrics   Prometheus
    GET, POST, DELETE /v1/drills      faults on purpose, if the settings allow them

assign (sticky hash) -> read features -> ask the arm -> reserve the channel's highest cost -> log -> answer. Whatever
fails on the way, or takes too long, the answer is 200 with the default action: no exposure, and the reason.

In reading order: `config.py`, `gateway.py` with `auth.py` and `admission.py` (who comes in, and how many at once),
`requests.py` (what a request may hold), `decider.py` (the flow above), `draft.py` (one decision in the making),
`answers.py` (a request that comes again), `deadline.py`, `features.py`, `arms.py`, `settlement.py` and `outcomes.py`
(money comes back), `live.py` (hot reload and kill switch), `metrics.py`, `health.py`, `drills.py`, `shipping.py`
(where the log goes), `pacer.py`, `router.py` (all parts together), `v2.py`, `app.py` and `grpc_server.py` (protocols),
`server.py` (start, drain). It imports neither
torch nor the offline half of Feast.
"""
