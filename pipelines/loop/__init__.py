"""The whole loop on one machine: train, gate, serve, decide, learn the outcome, judge, watch.

Reading order: `config.py` (settings), `run.py` (the order of things), `run_folder.py` (where it all lies),
`finished_stages.py` (how an interrupted run goes on), `online.py` (the experiment that is served), `ramp.py` (its
stages), `traffic_sources.py` (who comes online), `traffic.py` (the load driver), `simulated_lift.py` (what the
experiment should have found), `monitored_days.py` (the monitor's checks), `summary.py` (summary.json).
"""
