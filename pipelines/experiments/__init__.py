"""Controllers of experiments: they put the stage machine of `mtorl.experiment` to work on a laptop's files.

In reading order: `folder.py` (an experiment's file, history, and what is in force), `controller.py` (what people and
the ramp do to it), `state_log.py` (the decision log of a router that runs).
"""
