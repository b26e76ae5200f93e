"""KFP components, one file each: a thin body that calls a room below.

Reading order: `component.py` (the decorator), then in the order of the training pipeline `fingerprint.py`,
`collect.py`, `ingest.py`, `build_features.py`, `install_features.py`, `served_incumbent.py`, `fit_incumbent.py`,
`train_challenger.py`, `evaluate.py`, `gate.py`, `package.py`, `publish.py`, then those of the monitoring pipeline,
`verdict.py` and `monitor.py`.
"""
