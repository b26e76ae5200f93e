"""From this machine to a cluster: compiled pipelines, recurring runs, Katib's search, files on the data volume.

Reading order: `compile.py` (YAML), `kfp_server.py` (connect, upload), `schedule.py` (recurring runs), `katib.py`,
`volume_upload.py` and `volume_receiver.py`.
"""
