"""What needs the registry's versions: `uses` (the form of it), `deciding` (by the decision log), `on_cluster`."""
