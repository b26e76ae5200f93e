"""What a cluster gets from this machine: compiled pipelines, recurring runs, Katib's search, files on the data volume.

Reading order: `compile.py` (YAML), `kfp_server.py` (connect, upload), `schedule.py` (recurring runs), `katib.py`,
`put.py` and `receive.py`.
"""
