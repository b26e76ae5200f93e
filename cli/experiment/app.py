"""Check, run and analyse an experiment.

    mtorl experiment init first-day.yaml --dataset my-log.yaml
    mtorl experiment check first-day.yaml --dataset my-log.yaml
    mtorl serve --experiment first-day.yaml                  keeps its state in first-day/
    mtorl experiment plan first-day.yaml --effect 0.05       users, days and money needed
    mtorl experiment run first-day.yaml                      runs all stages; page at http://127.0.0.1:8088/
    mtorl experiment move first-day.yaml shadow              to a stage, off, on, promoted, stopped or "rolled back"
    mtorl experiment status first-day.yaml                   current state and next action
    mtorl experiment verdict first-day.yaml                  verdict on a log, also by segment; or on the shadow

On a cluster, an Experiment object replaces the file, and its field `spec.move` replaces `move`: docs/cluster.md.
With --json, each command prints only JSON.
"""

from cli.commands import CommandGroup
from cli.experiment.files import check, init
from cli.experiment.log import plan, verdict
from cli.experiment.move import move
from cli.experiment.run import operator, run, status

app = CommandGroup(__doc__ or "")
for command in (init, check, plan, run, move, status, verdict, operator):
    app.command()(command)
