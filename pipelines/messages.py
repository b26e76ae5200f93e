"""Messages of experiments' controllers, and of the runs and schedules of pipelines."""

from mtorl.runtime.message import Words

# Conditions of an object: `reason` is the code in CamelCase.
USABLE = Words("usable", "the spec can be used")
UNUSABLE = Words("unusable", "{fault}\n{goes_on}")
NOT_ITS_TURN = Words("not-its-turn", "{fault}\n{goes_on}")
REFUSED = Words("refused", "{fault}")
HELD = Words("held", "its promotion waits until the log has been read, in a minute or so")
MOVED = Words("moved", "{to}: {reason}")
WAITING = Words("waiting", "{reasons}{newest}")
LOG_UNREADABLE = Words("log-unreadable", "{fault}")
LOG_IN_A_MINUTE = Words("log-in-a-minute", "The log is read within a minute.")
NO_ROUTER = Words("no-router", "no router has polled lately: each goes on with its present version")
BEHIND = Words("behind", "not yet on {routers}")
EVERY_ROUTER = Words("every-router", "on {routers}")
EDITED_BY_HAND = Words("edited-by-hand", "the ConfigMap was edited by hand and {has}: a usable spec overwrites it")
OFF_BY_HAND = Words("off-by-hand", "it was switched off in the ConfigMap. To switch it on, give a reason: {command}")

# The incumbent's server after a promotion or its rollback.
NOT_KNOWN = Words("not-known", "a model server can't be read or changed: {fault}")
ROLLING_OUT = Words("rolling-out", "{name} rolls out {after} in place of {before}{problem}")
HANDED_OVER = Words("handed-over", "{name} serves {after} in place of {before}; the challenger's server is free")
AT_ITS_ENDPOINT = Words("at-its-endpoint", "the incumbent's arm answers at {where}, and continues there")
WAITS_FOR_END = Words("waits-for-end", "{other} compares with what {name} serves: it is handed over when that is over")
WAITS_FOR_OTHER = Words("waits-for-other", "{other} was promoted and needs what {name} serves till its next experiment")
WAITS_FOR_DIGEST = Words("waits-for-digest", "{other} is over, but fixes digest {digest} at {name}: leave that out")
NOT_IN_GIT = Words(
    "not-in-git",
    "an apply gave {name} {served}, but {after} is promoted: put it into models.yaml. The challenger's server answers",
)
CHANGED = Words("changed", "{name} is to serve {served}, not {wanted}: change it back, or roll back with salt {salt!r}")
ROLLING_BACK = Words("rolling-back", "{name} is to serve {before} again, in place of {after}{problem}")
ROLLED_BACK = Words("rolled-back", "{name} serves {before} again")
NOTHING_TO_UNDO = Words("nothing-to-undo", "the incumbent's arm answers as before: nothing else had changed")
GONE_ON = Words("gone-on", "{name} serves {served}, which came after the rollback and stays")
VERSION_UNKNOWN = Words("version-unknown", "{name} serves {served}, and its previous version is unknown: roll that out")

# Steps and files of experiments.
FIXED_FIELDS = Words("fixed-fields", "{fields} may not change once it has begun. Change it back, or give a new salt")
TAKEN_BACK = Words(
    "taken-back",
    "{challenger} was promoted in {experiment} under salt {salt!r} and serves all users; the incumbent given here is "
    "the previous one. Write its arm as `- {line}`, or roll that promotion back first{hint}",
)
NOT_SETTLED = Words("not-settled", ". The model is not at the incumbent's own server yet: wait until this names it")
KILL_NOT_WRITTEN = Words("kill-not-written", "{fault}\nit is off, but not stored: repair that and kill again")
CHANGED_MEANWHILE = Words("overtaken", "The experiment changed while its log was read. The next look sees the change.")
FORCE = Words("force", "force is about a promotion: set it to null, since a patch keeps it")
UNSUPPORTED = Words("unsupported", "{why} Nothing supports a promotion; `force` promotes it without evidence.")
SAME_MOVE = Words("same-move", "{to} was requested and made before for the same reason: give another reason")
NOT_OVER = Words("not-over", "{conflict}; {other} is not over: stop it, or wait for its end")
IN_ITS_WAY = Words("in-its-way", "{name} can't be read, and may be in its way")
LOCK_HELD = Words("lock-held", "{path}: held for {seconds:g} s by a process that hangs. End it: fuser -k {path}")
NO_SETTING = Words("no-setting", "{file}: it has no {name}; start mtorl serve again, which writes it")
NOT_STARTED = Words("not-started", "{state}: no router has been started there: mtorl serve --experiment {file}")
LOG_FAULT = Words("log-fault", "{where}: the log can't be read: {fault}")
NO_STATE = Words("no-state", "{place}: neither the state of mtorl serve nor a lake with decisions, as lake of a run is")
MODEL_GONE = Words(
    "model-gone",
    "{file}: the model of {challenger}, which was promoted, is not in {run}: serve or restore {before}, or roll the "
    "promotion back: mtorl experiment move {file} 'rolled back'",
)

# Runs.
RUN_AT_WORK = Words("run-at-work", "{folder}: another run is at work on this folder. Wait for it")
NO_RUN = Words("no-run", "{root}: no run to continue. Start one without --resume")
RUN_FINISHED = Words("run-finished", "{run}: the newest run is finished. Start another one without --resume")
RUN_DIFFERS = Words("run-differs", "{run}: can't continue: {changes}. Undo that, or start another run without --resume")
