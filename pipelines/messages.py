"""Defines the messages about experiments, model servers and pipeline runs."""

from mtorl.runtime.message import Words

# A Kubernetes condition's `reason` is the message's code in CamelCase.
USABLE = Words("usable", "the spec can be used")
UNUSABLE = Words("unusable", "{fault}\n{goes_on}")
NOT_ITS_TURN = Words("not-its-turn", "{fault}\n{goes_on}")
REFUSED = Words("refused", "{fault}")
HELD = Words("held", "the promotion waits until the log has been read, in about a minute")
MOVED = Words("moved", "{to}: {reason}")
WAITING = Words("waiting", "{reasons}{newest}")
LOG_UNREADABLE = Words("log-unreadable", "{fault}")
LOG_IN_A_MINUTE = Words("log-in-a-minute", "The log will be read within a minute.")
NO_ROUTER = Words("no-router", "no router has polled lately: each router continues with its current version")
BEHIND = Words("behind", "the active version is not yet on {routers}")
EVERY_ROUTER = Words("every-router", "the active version is on {routers}")
EDITED_BY_HAND = Words("edited-by-hand", "the ConfigMap was edited manually and {has}: a valid spec overwrites it")
OFF_BY_HAND = Words("off-by-hand", "switched off in the ConfigMap. Switch the experiment on with a reason: {command}")

NOT_KNOWN = Words("not-known", "a model server can't be read or changed: {fault}")
ROLLING_OUT = Words("rolling-out", "{name} rolls out {after} in place of {before}{problem}")
HANDED_OVER = Words("handed-over", "{name} serves {after} in place of {before}; the challenger's server is free")
AT_ITS_ENDPOINT = Words("at-its-endpoint", "the incumbent's arm answers at {where}, and continues there")
WAITS_FOR_END = Words("waits-for-end", "{other} uses {name}'s current model; the hand-over waits until {other} ends")
WAITS_FOR_OTHER = Words("waits-for-other", "{other} was promoted and needs {name}'s model until its next experiment")
WAITS_FOR_DIGEST = Words("waits-for-digest", "{other} is over, but pins digest {digest} at {name}: remove the digest")
NOT_IN_GIT = Words(
    "not-in-git",
    "an apply set {name} to {served}: put the promoted {after} into models.yaml. Until then, the challenger's server "
    "answers",
)
CHANGED = Words("changed", "{name} was changed from {wanted} to {served}: undo that, or roll back with salt {salt!r}")
ROLLING_BACK = Words("rolling-back", "{name} rolls back to {before} from {after}{problem}")
ROLLED_BACK = Words("rolled-back", "{name} serves {before} again")
NOTHING_TO_UNDO = Words("nothing-to-undo", "nothing to undo: no model server was changed by the promotion")
GONE_ON = Words("gone-on", "{name} keeps serving {served}, which was set after the rollback")
VERSION_UNKNOWN = Words("version-unknown", "{name} serves {served}, previous version unknown: roll it out yourself")

FIXED_FIELDS = Words("fixed-fields", "{fields} may not change in a running experiment. Undo this, or set a new salt")
TAKEN_BACK = Words(
    "taken-back",
    "{challenger} was promoted in {experiment} under salt {salt!r} and serves all users, but this file names the "
    "previous incumbent. Write its arm as `- {line}`, or roll that promotion back first{hint}",
)
NOT_SETTLED = Words("not-settled", ". Wait until this line has the incumbent's server: the model is not there yet")
KILL_NOT_WRITTEN = Words("kill-not-written", "{fault}\nswitched off, but not recorded: repair this and kill again")
CHANGED_MEANWHILE = Words("overtaken", "The experiment changed while its log was read. The next read uses the change.")
FORCE = Words("force", "force is only for promotions. Set force to null explicitly: a patch keeps omitted fields")
UNSUPPORTED = Words("unsupported", "{why} The promotion has no evidence; `force` promotes without evidence.")
SAME_MOVE = Words("same-move", "the move to {to} was already made for this reason. To repeat it, give another reason")
NOT_OVER = Words("not-over", "{conflict}; {other} has not ended: stop {other}, or wait for its end")
IN_ITS_WAY = Words("in-its-way", "{name} can't be read, so a conflict can't be excluded")
LOCK_HELD = Words("lock-held", "{path}: locked for {seconds:g} s by a hanging process. Stop it: fuser -k {path}")
NO_SETTING = Words("no-setting", "{file}: setting {name} is missing; restart mtorl serve, which writes it")
NOT_STARTED = Words("not-started", "{state}: no router reads this folder. Start one: mtorl serve --experiment {file}")
LOG_FAULT = Words("log-fault", "{where}: the log can't be read: {fault}")
NO_STATE = Words("no-state", "{place}: neither a state folder of mtorl serve nor a lake with decisions")
MODEL_GONE = Words(
    "model-gone",
    "{file}: the promoted model of {challenger} is not in {run}. Serve or restore {before}, or roll the promotion "
    "back: mtorl experiment move {file} 'rolled back'",
)

RUN_AT_WORK = Words("run-at-work", "{folder}: another run is using this folder. Wait for its end")
NO_RUN = Words("no-run", "{root}: no run to continue. Start one without --resume")
RUN_FINISHED = Words("run-finished", "{run}: the newest run is finished. Start another run without --resume")
RUN_DIFFERS = Words("run-differs", "{run}: can't continue: {changes}. Undo the change, or start without --resume")
