"""A training on several GPUs or nodes: the step `train-challenger` has Kubeflow Trainer run it as a TrainJob.

In reading order: `train_job` (its size, the object, and what its status says; no cluster needed), `train` (create the
job, wait for its end, take the artifact). No component is defined here: a running step imports it.
"""
