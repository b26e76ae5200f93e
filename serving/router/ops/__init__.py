"""Settings, experiments and monitoring of the router.

In reading order: `settings.py` (the YAML file), `live_experiments.py` (reads the active experiments from files),
`operator_feed.py` (reads the active experiments from the operators in a cluster), `metrics.py` (Prometheus),
`tracing.py` (OpenTelemetry), `health.py` (probes), `drills.py` (injected faults).
"""
