"""Implements `mtorl run`, which runs everything once on a laptop: training, gate, serving, experiment and monitoring.

In reading order:

- `config.py` has the settings, and `run.py` the stages of a run;
- `run_folder.py` stores the outputs of finished stages, so that an interrupted run can resume;
- `online.py` serves the experiment, and `ramp.py` moves it through its stages;
- `traffic_sources.py` defines the users, and `traffic.py` sends their requests;
- `simulated_lift.py` computes the true lift, and `monitored_days.py` runs the monitor;
- `summary.py` writes summary.json.
"""
