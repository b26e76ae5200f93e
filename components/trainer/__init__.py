"""A training on several nodes: the step `train-challenger` has Kubeflow Trainer run it as a TrainJob.

In reading order: `train_job` (the object, and what its status says; no cluster needed), `train_jobs` (the API server),
`on_nodes` (hand the windows over, wait, take the artifact), `train` (there, or in the step). No component is defined
here: a running step imports it.
"""
