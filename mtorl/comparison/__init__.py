"""The comparison of MTORL with its ablations and with other methods: tasks, methods, figures, report."""
