"""Runs the whole loop on a laptop: training, gate, serving, experiment, verdict and monitoring.

Reading order: `config.py` (settings), `run.py` (stages of a run), `run_folder.py` (outputs of the stages; resuming),
`online.py` (the served experiment), `ramp.py` (the experiment's stages), `traffic_sources.py` (users), `traffic.py`
(the load driver), `simulated_lift.py` (the true effect), `monitored_days.py` (the monitor's checks), `summary.py`
(summary.json).
"""
