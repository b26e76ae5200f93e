"""Lists, publishes and removes versions of the model registry.

In reading order: `catalogue` (the versions with their lineage), `need` (why a version is needed), `description`
(versions as plain values), `pruning` (removal), `origin` (the lineage of a challenger), `publishing` (the pipeline's
step), `kubeflow_model_registry` (optional registration), `models_file` (an overlay's models.yaml).
"""
