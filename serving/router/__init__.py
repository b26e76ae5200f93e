r"""The A/B router in front of the policies of an experiment, with the routes of a KServe model.

    python -m serving.router --run-config router.yaml
    curl localhost:8080/v1/models/ads:predict -H 'content-type: application/json' -d \
      '{"instances": [{"user_id": "u1", "campaign_id": "spring", "context": {"hour": 14, "device": "phone"}}]}'

    POST /v1/models/ads:predict   POST /v2/models/ads/infer   decisions, 1 to 64 a request
    POST /v1/outcomes             outcomes of decisions; cost settles a reservation, cancel releases it
    GET  /health/live|ready       probes                      GET  /metrics   Prometheus
    GET, POST, DELETE /v1/drills      injected faults, if the settings allow them
    GET  /openapi.json            the whole interface in detail (docs/api.md)

For each decision, the router assigns an arm (sticky hash), reads features, calls the arm, reserves the channel's
highest cost, logs and answers. If a stage fails or is late, the answer is 200 with the default action and a reason.

In reading order, where each part imports only earlier ones: `ops/` (settings, metrics, health), `flow/` (the decision),
`router.py` (assembly), `http/` (gateway, protocols, the process), `__main__.py`. No file imports torch or the offline
half of Feast.
"""
