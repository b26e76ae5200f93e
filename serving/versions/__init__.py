"""Versions of the model registry, in reading order.

`catalogue` (the versions with their lineage), `need` (what needs a version), `description` (versions as plain values),
`pruning` (removal of old versions), `origin` (the lineage of a challenger), `publishing` (what the pipeline does),
`kubeflow_model_registry` (an optional announcement).
"""
