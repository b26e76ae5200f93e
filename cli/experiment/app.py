"""An experiment: its file, stages and results.

    mtorl experiment init first-day.yaml --dataset my-log.yaml
    mtorl experiment check first-day.yaml --dataset my-log.yaml
    mtorl serve --experiment first-day.yaml                  keeps its state in first-day/
    mtorl experiment plan first-day.yaml --effect 0.05       how many users, days and how much money
    mtorl experiment run first-day.yaml                      from stage to stage, with a page at http://127.0.0.1:8088/
    mtorl experiment move first-day.yaml shadow              a stage, off, on, promoted, stopped or "rolled back"
    mtorl experiment status first-day.yaml                   what is known, and what to do
    mtorl experiment verdict first-day.yaml                  the verdict on a log, also by segment; or on its shadow

On a cluster, an Experiment object takes the place of the file, and `spec.move` that of `move`: docs/cluster.md.
With --json, each prints JSON alone.
"""

from cli.commands import CommandGroup
from cli.experiment.files import check, init
from cli.experiment.log import plan, verdict
from cli.experiment.move import move
from cli.experiment.run import operator, run, status

app = CommandGroup(__doc__ or "")
for command in (init, check, plan, run, move, status, verdict, operator):
    app.command()(command)
