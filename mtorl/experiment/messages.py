"""Defines the messages about experiments: verdicts, moves between stages, and faults in a file or a history."""

from mtorl.runtime.message import Words

# Verdicts about a challenger. If a code is not an `inference.verdict.Token`, the experiment waits for more data.
SRM = Words("srm", "The split of users differs from the weights (p = {p:.2g} < {alarm}): no result is valid.")
NOT_STICKY = Words("not-sticky", "Assignment is not sticky: {share:.1%} of the users were seen in two arms of a stage.")
UNBALANCED = Words("unbalanced", "No lift is valid: the arms' users differ more in {covariate!r} than chance allows.")
TOO_EARLY = Words("too-early", "Not enough time yet: {hours:,} of {needed:g} hours (min_runtime_hours) count so far.")
GUARDRAIL = Words("guardrail", "{metric} is worse by at least {lower:.4g}. The margin is {margin:.4g}.")
NOT_EVALUABLE = Words("not-evaluable", "Not enough data yet: an arm has no decision whose outcomes are complete.")
NO_POSITIVE = Words("no-positive-outcome", "Not enough data yet: no user of either arm has a gain.")
TOO_FEW_USERS = Words(
    "too-few-users",
    "Not enough data: each arm needs {needed} equally active users; {challenger} has {users:,}, incumbent {others:,}.",
)
CHANGED_DAYS = Words(
    "changed-days",
    "Not decided yet: the always-valid interval is [{low_with:+.4g}, {high_with:+.4g}] with the days on which stage, "
    "weights or kill switch changed, and [{low:+.4g}, {high:+.4g}] without them.",
)
LATE_GAP = Words("late-gap", "An arm's share of late outcomes is {gap:.0%} above the other's. Raise outcome_hours.")
LATE_OUTCOMES = Words(
    "late-outcomes",
    "Not decided yet: the always-valid interval is [{low_with:+.4g}, {high_with:+.4g}] with the outcomes that arrived "
    "after outcome_hours, and [{low:+.4g}, {high:+.4g}] without them. Raise outcome_hours.",
)
STOP = Words("stop", "The challenger is worse: the always-valid interval ends at {high:+.4g}, below zero.")
FUTILE = Words("futile", "A lift of {effect:.3g} % or more is ruled out: the interval is [{low:+.4g}, {high:+.4g}].")
UNDECIDED = Words("undecided", "Not decided yet: the always-valid interval [{low:+.4g}, {high:+.4g}] contains zero.")
GUARDRAILS_OPEN = Words("guardrails-open", "The challenger is better, but not yet proven within margin: {metrics}.")
SHIP = Words("ship", "The challenger is better: the always-valid interval starts at {low:+.4g}, above zero.")

# Reasons why an experiment moves to another stage, or stays at its stage.
NO_RAMP = Words("no-ramp", "The file has no ramp, so a person must set the stage.")
OVER = Words("over", "The experiment is {phase}. To try again, use a new salt.")
KILL_SWITCH_ON = Words("kill-switch-on", "The kill switch is on. Switch it off first.")
DRAFT = Words("draft", "The experiment is a draft. To start it, move it to {stage}.")
STARTS_LATER = Words("starts-later", "The experiment starts at {start}.")
STARTS = Words("starts", "The start time, {start}, has been reached.")
NO_EVIDENCE = Words("no-evidence", "The log has no decision of the incumbent at this stage yet.")
PLANNED_END = Words("planned-end", "The planned end was reached without a win. {verdict}")
STAGE_NOT_IN_RAMP = Words("stage-not-in-ramp", "A person moved it to {stage}, which is not in the ramp. Move it on.")
STAGE_DONE = Words("stage-done", "{lasted} at {stage} are over, with {users}, and no check failed.")
WINS = Words("wins", "{challenger} wins and waits for a person to promote it. {verdict}")
LAST_STAGE = Words("last-stage", "The experiment is at its last stage. {verdict}")
HOURS = Words("hours", "{found:.1f} of {needed:g} {unit} at {stage}")
USERS = Words("users", "{found:,} of {needed:,} users of {arm}")
FALLBACK_RATIO = Words("fallback-ratio", "{arm} falls back in {found:.1%} of its decisions ({allowed:.1%} is allowed)")
LATENCY = Words("latency", "{arm} takes {found:.0f} ms longer at the 99th percentile ({allowed:.0f} ms are allowed)")
OLD_FAULTS = Words("old-faults", "to ignore past faults, switch the experiment off, then on (an object: enabled)")

# Reasons why an event is rejected.
HAS_BEGUN = Words("has-begun", "The experiment has started and can't be a draft again. To try again, use a new salt.")
ALREADY_THERE = Words("already-there", "The experiment is already in phase {phase}.")
NOT_BEGUN = Words("not-begun", "The experiment has not started. Move it to a stage first.")
ONLY_PEOPLE_GO_BACK = Words("only-people-go-back", "Only a person can move the experiment to an earlier stage.")
NO_TARGET = Words("no-target", "A move needs a target phase, and no other event may have one.")
NOTHING_TO_HAND_OVER = Words("nothing-to-hand-over", "There is no promotion to hand over.")
PROMOTED = Words("promoted", 'A challenger is promoted. To undo the promotion, move it to "rolled back".')
WHICH_CHALLENGER = Words("which-challenger", "Name the challenger to promote: {challengers}.")
NOT_SWITCHED_OFF = Words("not-switched-off", "The experiment is not switched off.")
OFF_IN_FILE = Words("off-in-file", "The experiment is switched off in its file. Set enabled: true there.")
NO_EVENT = Words("no-event", "{where} {number} is not an event: {fault}")
EVENTS_MISSING = Words("events-missing", "{where} {number} has event {found}: some are missing, or were added manually")

# Fields of the file.
ARM_NAME = Words("arm-name", "{name!r} can't be the name of an arm: it {means}. Choose another name")
ARMS = Words("arms", "need 'incumbent' and at least one other arm, with different names, got {names}")
WEIGHTS = Words("weights", "the weights must add up to 1, but add up to {total:g}")
ENDPOINT_OR_POLICY = Words("endpoint-or-policy", "give an endpoint or a policy (for example baseline), not both")
NO_MODEL = Words("model-without-endpoint", "{fields}: allowed only with an endpoint. Remove it")
NOT_A_URL = Words("not-a-url", "{endpoint!r} is not an http(s) URL")
SOCKET_PATH = Words("socket-path", "{endpoint!r}: write the absolute path of the socket as the host, with %2F for /")
LAYER_PART = Words("layer-part", "expected [from, to] with from < to, got {part}")
NO_BUDGET = Words("no-budget", "give budgets or a budget_table, not both: without a budget nothing is shown")
TOO_MANY_BUDGETS = Words("too-many-budgets", "{count} budgets, at most {most} are allowed: use a table (budget_table)")
BUDGET_TWICE = Words("budget-twice", "campaign {campaign!r}, channel {channel!r}, {period} is already in {other}")
BUDGET_CAMPAIGN = Words("budget-campaign", "campaign {campaign!r} is not one of the experiment's, {campaigns}")
NO_ARM = Words("no-arm", "overrides: {user}: {arm!r} is not an arm; the arms are {arms}")
STAGE_OR_RAMP = Words("stage-or-ramp", "give a stage, or a ramp with several stages")
STAGES_GROW = Words("stages-grow", "each stage must be larger than the previous one, got {stages}")
PLANNED_END_EARLY = Words("planned-end-early", "planned_end must be later than start")
NAME_IN_YAML = Words("name-in-yaml", "name: {name!r} can't be written as YAML. Choose another name")
UNKNOWN_CHANNEL = Words("unknown-channel", "{channel!r} is not one of {known}")
LAST_ROW = Words("last-row", "the last row must match all requests: give it a channel, and no `when`")
ROW_NEVER_USED = Words("row-never-used", "a row without `when` matches all requests: the rows after it are never used")
UNKNOWN_COLUMN = Words("unknown-column", "{column!r} is not a column; known: {known}")
COLUMN_KIND = Words("column-kind", "the column is {kind}, and {value} is not")
UNKNOWN_METRIC = Words("unknown-metric", "metric {metric!r} is not known; known: {known}")
UNKNOWN_OUTCOME = Words("unknown-outcome", "metric {metric!r}: the data set has no outcome {outcome!r}; known: {known}")
NO_GAIN = Words("no-gain", "metric {metric!r} is no gain: use gain_per_decision, click_per_decision or a gain per cost")

# The table of budgets.
TABLE_UNREADABLE = Words("budget-table-unreadable", "cannot read the budgets: {fault}")
TABLE_CHANGED = Words("budget-table-changed", "content {found} instead of {wanted}: wait two minutes for the new file")
TABLE_NAME = Words("budget-table-name", "expected the name of a .csv or .parquet file, got {name}")
TABLE_FOLDER = Words("budget-table-folder", "{name}: a budget table can't be read here, without a folder")
NOT_UTF8 = Words("budget-table-encoding", "the file is not UTF-8 at byte {byte}. Save it as UTF-8")
NOT_PARQUET = Words("budget-table-parquet", "the file is not a Parquet file: {fault}")
CELLS = Words("budget-table-cells", "the row must have {needed} cells")
COLUMNS = Words("budget-table-columns", "column {column!r} is {fault}; the columns are {known}; {needed} are required")
TOO_MANY_ROWS = Words("budget-table-rows", "a table can have at most {most} budgets")
NO_ROWS = Words("budget-table-empty", "the table has no rows; example: spring,*,200 in the columns {columns}")
CELL = Words("budget-table-cell", "{value} is not {expected} (column {column}){hint}")
PACING_NONE = Words("budget-table-pacing", "pacing is none, but {column} is given. Remove one of them")

# Several experiments, money and plans.
NO_EXPERIMENT = Words("no-experiments", "there is no experiment")
SAME_NAME = Words("same-name", "two experiments have the name {name}")
OVERLAP = Words("overlap", "{one} and {other} both decide {campaigns}, {how}: give each a layer_part or own campaigns")
BUDGETS_DIFFER = Words("different-budgets", "{one} and {other} give different budgets for {campaigns}")
NO_FORECASTS = Words("no-forecasts", "set `price`: no arm sends expected_reward and expected_cost to compute it from")
NOT_A_SHARE = Words("not-a-share", "{name}: expected a share above 0 and below 1, got {value:g}")
PLAN_NEEDS_USERS = Words(
    "plan-needs-users",
    "the log has {users:,} incumbent users and a metric of {value:.4g}: {needed} users and a gain are needed. "
    "A decision counts after outcome_hours",
)
