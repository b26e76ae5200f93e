"""The versions of the registry: what is known of each, what needs it, and how those go that nothing needs.

In reading order: `catalogue` (what there is, with its lineage), `need` (what needs a version, as far as it is known),
`pruning` (which versions go, and how one is removed), `origin` (the lineage of a challenger that is to be published),
`hub` (Kubeflow's model registry, told of each version), `open_lineage` (events for whoever collects them), `publishing`
(all of it, as the pipeline does it).
"""
