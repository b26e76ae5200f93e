"""The whole loop on one machine: train, gate, serve, decide, learn the outcome, judge, watch.

Reading order: `config.py` (settings), `run.py` (the order of stages), `run_folder.py` (their outputs; resuming),
`online.py` (the experiment that is served), `ramp.py` (its stages), `traffic_sources.py` (users), `traffic.py` (the
load driver), `simulated_lift.py` (the true effect), `monitored_days.py` (the monitor's checks), `summary.py`
(summary.json).
"""
