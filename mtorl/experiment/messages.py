"""Messages of experiments: verdicts, stages, and what is wrong with a file or a history."""

from mtorl.runtime.message import Words

# Verdicts. A code that is no token of `inference.verdict` waits.
SRM = Words("srm", "Users are not split as configured (p = {p:.2g} < {alarm}), so no figure counts.")
NOT_STICKY = Words("not-sticky", "Assignment is not sticky: {share:.1%} of the users were seen in two arms of a stage.")
UNBALANCED = Words("unbalanced", "No lift counts: by chance, the arms' users would not differ so in {covariate!r}.")
LATE_OUTCOMES = Words(
    "late-outcomes", "An arm's share of late outcomes is {gap:.0%} above the other's. Raise outcome_hours."
)
TOO_EARLY = Words("too-early", "Not enough time yet: {hours:,} of the {needed:g} hours of min_runtime_hours count.")
GUARDRAIL = Words("guardrail", "{metric} is worse by at least {lower:.4g}, and {margin:.4g} was allowed.")
NOT_EVALUABLE = Words("not-evaluable", "Not enough data yet: an arm has no decision that can be evaluated.")
NO_POSITIVE = Words("no-positive-outcome", "Not enough data yet: no user of either arm has a gain.")
TOO_FEW_USERS = Words(
    "too-few-users",
    "Not enough data yet: {challenger} has {users:,}, incumbent {others:,} of {needed} users (equally active ones).",
)
CHANGED_DAYS = Words(
    "changed-days",
    "Not decided yet: the always-valid interval is [{low_with:+.4g}, {high_with:+.4g}] with the days on which stage, "
    "weights or kill switch changed, and [{low:+.4g}, {high:+.4g}] without them.",
)
STOP = Words("stop", "The challenger is worse: the always-valid interval ends at {high:+.4g}, below zero.")
FUTILE = Words("futile", "A lift of {effect:.3g} % or more is ruled out: the interval is [{low:+.4g}, {high:+.4g}].")
UNDECIDED = Words("undecided", "Not decided yet: the always-valid interval [{low:+.4g}, {high:+.4g}] contains zero.")
GUARDRAILS_OPEN = Words("guardrails-open", "The challenger is better, but not yet proven within margin: {metrics}.")
SHIP = Words("ship", "The challenger is better: the always-valid interval starts at {low:+.4g}, above zero.")

# Stages: why an experiment moves or stays.
NO_RAMP = Words("no-ramp", "The file has no ramp: people set its stage.")
OVER = Words("over", "It is {phase}. For another try, give it a new salt.")
KILL_SWITCH_ON = Words("kill-switch-on", "The kill switch is on. Switch it off first.")
DRAFT = Words("draft", "It is a draft. Start it with a move to {stage}.")
STARTS_LATER = Words("starts-later", "It starts at {start}.")
STARTS = Words("starts", "Its start, {start}, has come.")
NO_EVIDENCE = Words("no-evidence", "The log has no decision of the incumbent at this stage yet.")
PLANNED_END = Words("planned-end", "Its planned end came before a verdict. {verdict}")
STAGE_NOT_IN_RAMP = Words("stage-not-in-ramp", "A person moved it to {stage}, which the ramp leaves out. Move it on.")
STAGE_DONE = Words("stage-done", "{lasted} at {stage} are over, {users}, and nothing speaks against it.")
WINS = Words("wins", "{challenger} wins and waits for a person to promote it. {verdict}")
LAST_STAGE = Words("last-stage", "It is at its last stage. {verdict}")
HOURS = Words("hours", "{found:.1f} of {needed:g} {unit} at {stage}")
USERS = Words("users", "{found:,} of {needed:,} users of {arm}")
FALLBACK_RATIO = Words("fallback-ratio", "{arm} falls back in {found:.1%} of its decisions, {allowed:.1%} is allowed")
LATENCY = Words("latency", "{arm} takes {found:.0f} ms longer at the 99th percentile, {allowed:.0f} ms are allowed")
OLD_FAULTS = Words("old-faults", "to count faults from now on, move it off, then on (an object: enabled)")

# Events that can't happen now, or be read.
HAS_BEGUN = Words("has-begun", "It has begun and can't be a draft again. For another try, give it a new salt.")
ALREADY_THERE = Words("already-there", "Its phase is {phase} already.")
NOT_BEGUN = Words("not-begun", "It has not begun. Move it to a stage first.")
ONLY_PEOPLE_GO_BACK = Words("only-people-go-back", "Only a person moves it back a stage.")
NO_TARGET = Words("no-target", "A move names the phase that it leads to, and no other event does.")
NOTHING_TO_HAND_OVER = Words("nothing-to-hand-over", "There is no promotion to hand over.")
PROMOTED = Words("promoted", 'A challenger is promoted. To undo that, move it to "rolled back".')
WHICH_CHALLENGER = Words("which-challenger", "Name the challenger to promote: {challengers}.")
NOT_SWITCHED_OFF = Words("not-switched-off", "It is not switched off.")
OFF_IN_FILE = Words("off-in-file", "It is switched off in the file. Set enabled: true there.")
NO_EVENT = Words("no-event", "{where} {number} is no event: {fault}")
EVENTS_MISSING = Words("events-missing", "{where} {number} has event {found}: some are missing or were added by hand")

# Fields of the file.
ARM_NAME = Words("arm-name", "{name!r} can't be an arm: it {means}. Choose another name")
ARMS = Words("arms", "need 'incumbent' and at least one other, all different, got {names}")
WEIGHTS = Words("weights", "the weights must add up to 1, they add up to {total:g}")
ENDPOINT_OR_POLICY = Words("endpoint-or-policy", "give an endpoint, or else a policy, such as baseline, without one")
NO_MODEL = Words("model-without-endpoint", "{fields}: only an endpoint has a model. Leave it out")
NOT_A_URL = Words("not-a-url", "{endpoint!r} is not an http(s) URL")
SOCKET_PATH = Words("socket-path", "{endpoint!r}: write the socket's whole path in the host's place, / as %2F")
LAYER_PART = Words("layer-part", "expected [from, to] with from < to, got {part}")
NO_BUDGET = Words("no-budget", "without a budget nothing is exposed: give budgets, or else a budget_table")
TOO_MANY_BUDGETS = Words("too-many-budgets", "{count} are more than {most}: put them into a table (budget_table)")
BUDGET_TWICE = Words("budget-twice", "campaign {campaign!r}, channel {channel!r}, {period} is in {other}, too")
BUDGET_CAMPAIGN = Words("budget-campaign", "campaign {campaign!r} is not one of the experiment's, {campaigns}")
NO_ARM = Words("no-arm", "overrides: {user}: {arm!r} is no arm; there are {arms}")
STAGE_OR_RAMP = Words("stage-or-ramp", "give a stage, or else a ramp, which goes through several")
STAGES_GROW = Words("stages-grow", "each stage must be larger than the one before, got {stages}")
PLANNED_END_EARLY = Words("planned-end-early", "planned_end must be later than start")
NAME_IN_YAML = Words("name-in-yaml", "name: {name!r} can't be written into a file. Choose another name")
UNKNOWN_CHANNEL = Words("unknown-channel", "{channel!r} is not one of {known}")
LAST_ROW = Words("last-row", "the last row must fit everybody: give one with a channel and without `when`")
ROW_NEVER_USED = Words("row-never-used", "a row without `when` fits everybody: those after it would never decide")
UNKNOWN_COLUMN = Words("unknown-column", "{column!r} is not a column; known: {known}")
COLUMN_KIND = Words("column-kind", "the column is {kind}, and {value} is not")
UNKNOWN_METRIC = Words("unknown-metric", "metric {metric!r} is not known; known: {known}")
UNKNOWN_OUTCOME = Words("unknown-outcome", "metric {metric!r}: the data set has no outcome {outcome!r}; known: {known}")
NO_GAIN = Words("no-gain", "metric {metric!r} is no gain: use gain_per_decision, click_per_decision or such per cost")

# The table of budgets.
TABLE_UNREADABLE = Words("budget-table-unreadable", "cannot read the budgets: {fault}")
TABLE_CHANGED = Words("budget-table-changed", "content {found} instead of {wanted}: a new file comes in two minutes")
TABLE_NAME = Words("budget-table-name", "expected the name of a .csv or .parquet file, got {name}")
TABLE_FOLDER = Words("budget-table-folder", "{name}: there is no folder to read it from here")
NOT_UTF8 = Words("budget-table-encoding", "it is not UTF-8 at byte {byte}. Save it as UTF-8")
NOT_PARQUET = Words("budget-table-parquet", "it is no Parquet file: {fault}")
CELLS = Words("budget-table-cells", "{needed} cells are expected")
COLUMNS = Words("budget-table-columns", "column {column!r} is {fault}; the columns are {known}; {needed} must be there")
TOO_MANY_ROWS = Words("budget-table-rows", "a table holds {most} budgets at most")
NO_ROWS = Words("budget-table-empty", "it has no rows; an example: spring,*,200 in the columns {columns}")
CELL = Words("budget-table-cell", "{value} is not {expected} (column {column}){hint}")
PACING_NONE = Words("budget-table-pacing", "pacing is none, and {column} is given. Leave one of them out")

# Several experiments, money and plans.
NO_EXPERIMENT = Words("no-experiments", "there is no experiment")
SAME_NAME = Words("same-name", "two experiments are called {name}")
OVERLAP = Words("overlap", "{one} and {other} decide about {campaigns}, {how}: give each a layer_part or own campaigns")
BUDGETS_DIFFER = Words("different-budgets", "{one} and {other} give different budgets for {campaigns}")
NO_FORECASTS = Words("no-forecasts", "give a `price`: no arm sends expected_reward and expected_cost to find one from")
NOT_A_SHARE = Words("not-a-share", "{name}: expected a share above 0 and below 1, got {value:g}")
PLAN_NEEDS_USERS = Words(
    "plan-needs-users",
    "the log has {users:,} incumbent users and a metric of {value:.4g}: {needed} and a gain are needed",
)
