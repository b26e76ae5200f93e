"""Versions of the model registry.

In reading order: `catalogue` (the versions with their lineage), `need` (what needs a version), `description` (versions
as plain values), `pruning` (removal), `origin` (the lineage of a challenger), `publishing` (the pipeline's step),
`kubeflow_model_registry` (an optional announcement).
"""
