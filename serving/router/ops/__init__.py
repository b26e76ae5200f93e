"""Settings, experiments and monitoring of the router.

In reading order: `settings.py` (the YAML file), `live_experiments.py` (the active experiments, from files),
`operator_feed.py` (the same, from the experiments' operator), `metrics.py` (Prometheus), `tracing.py` (OpenTelemetry),
`health.py` (probes), `drills.py` (injected faults).
"""
