"""What operators set and see.

In reading order: `settings.py` (the YAML file), `live_experiments.py` (the experiments in force, read again when their
files change), `operator_feed.py` (or asked for at the experiments' operator), `metrics.py` (Prometheus), `tracing.py`
(OpenTelemetry), `health.py` (probes), `found_features.py` (an emptied store), `shipping.py` (where the decision log
goes).
"""
