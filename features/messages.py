"""Messages about logs and their descriptions."""

from mtorl.runtime.message import Words

# ---- files
NO_FILE = Words("no-file", "{file}: no such file or folder")
EMPTY_FILE = Words("empty-file", "{file}: the file is empty")
NO_LOG_FILES = Words("no-log-files", "{folder}: contains no log files. Their names must end with {kinds}")
MIXED_KINDS = Words("mixed-kinds", "{folder}: contains {kinds} files. Give a folder with files of one kind")
UNKNOWN_KIND = Words("unknown-kind", "{file}: unknown file type. Use {kinds}. Convert .json to .jsonl with jq -c '.[]'")
UNREADABLE = Words("unreadable-file", "{file}: not a valid {kind} file: {reason}")
NOT_JSON_LINES = Words("not-json-lines", "{file}: each line must be a JSON object with the columns of a row")
NO_ROWS = Words("no-rows", "{file}: the log has no rows")
OTHER_COLUMNS = Words("other-columns", "{folder}: {one} and {other} have different columns or column orders")
SAME_COLUMNS = Words("same-columns", "{file}: columns {columns} have the same name, apart from case. Rename one")
MISSING_COLUMNS = Words("missing-columns", "{file}: lacks columns of data set {dataset!r}: {missing}\n{hints:\n}")
OTHER_DATASET = Words("other-dataset", "{error}\nThe file looks like data set {dataset!r}. Try --dataset {dataset}")
NOT_WINDOWS = Words("not-windows", "{file}: not a valid manifest of windows ({reason}). Run `mtorl data build` again")

# ---- addresses in an object store
UNKNOWN_ADDRESS = Words("unknown-address", "{address}: unknown address type. Use one of {schemes}")
UNREADABLE_ADDRESS = Words(
    "unreadable-address", "{address}: can't be read ({reason}). If credentials are missing, set them in the environment"
)
CHANGED = Words("log-changed", "{log}: the log changed while it was being read. Run again once the log is complete")

# ---- descriptions
NO_DESCRIPTION_NEEDED = Words("no-description-needed", "{log}: already has a description: --dataset {dataset}")
UNCLEAR_COLUMNS = Words("unclear-columns", "{log}: which columns are {roles}? Set:{options}\nin the file: {columns}")
UNKNOWN_ADAPTER = Words("unknown-adapter", "adapter: {adapter!r} is not one of {known}")
FIXED_FILES = Words("fixed-files", "{field}: adapter {adapter!r} finds its own files. Remove {field}")
SIMULATED_ONLY = Words("needs-log", "data set {dataset!r} needs the path of a log. Only the simulator creates one")

# ---- rows and columns
BAD_ROWS = Words("bad-rows", "{log}: {bad:,} of {total:,} rows can't be used\n{faults:\n}")
NO_GOOD_ROW = Words("no-good-row", "{log}: none of {total:,} rows can be used. Is it a {dataset!r} log?\n{faults:\n}")
BAD_CONVERSIONS = Words("bad-conversions", "{faults:\n}\nCorrect these rows, or exclude them: --bad-rows quarantine")
NO_CONVERSION_FITS = Words(
    "no-conversion-fits",
    "{file}: no row matches a touchpoint ({counts}). Check the columns and the unit of the times. Example of a "
    "{key}: {theirs} in this file, {own} in the log",
)
LEAKS = Words("leaks", "{leaks:\n}\nThey are known only after the decision. List them under outcomes, or remove them")
DECIMAL_CATEGORIES = Words(
    "decimal-categories",
    "columns of categories contain decimal numbers, which match only if their text is identical: {columns}. Declare "
    "the columns numeric, or round the values in the log and in requests",
)
REPEATED_HOUR = Words(
    "repeated-hour",
    "column {column!r}: {rows:,} rows are in the hour that repeats in {zone} when daylight saving time ends. All are "
    "read as the second occurrence, so rows of the first are an hour late. Log times in UTC, or with an offset",
)

# ---- views of features
TAKEN_NAME = Words("taken-name", "column {column!r}: the name is reserved for a built-in feature. Rename the column")
VIEW_LACKS = Words("view-lacks", "features: view {view!r}: {file} lacks {columns}")
VIEW_TYPE = Words("view-type", "features: view {view!r}: {file}: column {column} must contain {wanted}")
OTHER_STORE = Words("other-store", "{repo}: {columns} of {view} do not fit data set {dataset!r}. Create it again")

# ---- decisions in the lake
UNKNOWN_ARM = Words("unknown-arm", "arm: {arm!r} is not one of {known}")
NO_PROBABILITIES = Words("no-probabilities", "{lake}: no decision of {experiment}/{arm} has probabilities and outcomes")
REPLAYED = Words("replayed", "{lake}: contains a replay of a log, not own decisions. Give the lake of served requests")
STILL_THERE = Words("still-there", "{file}: still contains {rows:,} rows of forgotten users (column {column!r})")
FILE_GONE = Words("file-gone", "{file}: no longer exists, so it was not searched")

# ---- folders of `mtorl data build`
TRUSTED_ADDRESS = Words(
    "trusted-address", "{log}: in an object store, so not trusted. Replace --trusted with --dataset"
)
TRUSTED_CONVERSIONS = Words(
    "trusted-conversions", "{log}: a trusted log already contains its outcomes. Remove --trusted, or conversions"
)
HAS_DECISIONS = Words("has-decisions", "{log}: already has own decisions. Use a log without, or remove --own-decisions")
BUILT = Words("built", "{folder}: {rows:,} touchpoints, {exposures:,} of them from {decisions:,} own decisions")
WITHOUT_LOG = Words("without-log", "{folder}: contains windows, but no log. Build it again, with --own-decisions")
WITHOUT_DECISIONS = Words(
    "without-decisions", "{folder}: built without the lake's decisions. Build it with --own-decisions"
)
OTHER_DESCRIPTION = Words("other-description", "{folder}: built with another {dataset}: {fields} differ. Rebuild it")
TAKEN_WHOLE = Words("taken-whole", "{folder}: a built log is read in full. Set {setting} to 0, or build a smaller log")
OTHER_WINDOWS = Words("other-windows", "{folder}: its log changed after its windows were cut. Build it again")
REPLACED = Words("replaced", "{folder}: another build replaced the folder while this run was reading it. Run again")
