"""Messages about logs and their descriptions."""

from mtorl.runtime.message import Words

# ---- files
NO_FILE = Words("no-file", "{file}: no such file or folder")
EMPTY_FILE = Words("empty-file", "{file}: the file is empty")
NO_LOG_FILES = Words("no-log-files", "{folder}: no files of a log here. Their names end with {kinds}")
MIXED_KINDS = Words("mixed-kinds", "{folder}: holds {kinds} files. Give a folder with files of one kind")
UNKNOWN_KIND = Words("unknown-kind", "{file}: unknown kind of file. Use {kinds}; jq -c '.[]' makes .jsonl of .json")
UNREADABLE = Words("unreadable-file", "{file}: not a readable {kind} file: {reason}")
NOT_JSON_LINES = Words("not-json-lines", "{file}: each line must be a JSON object with the columns of a row")
NO_ROWS = Words("no-rows", "{file}: the log has no rows")
OTHER_COLUMNS = Words("other-columns", "{folder}: {one} and {other} differ in their columns, or in their order")
SAME_COLUMNS = Words("same-columns", "{file}: columns {columns} differ in upper and lower case at most. Rename one")
MISSING_COLUMNS = Words("missing-columns", "{file}: lacks columns of data set {dataset!r}: {missing}\n{hints:\n}")
OTHER_DATASET = Words("other-dataset", "{error}\nIt looks like data set {dataset!r}: --dataset {dataset}")
NOT_WINDOWS = Words("not-windows", "{file}: not a manifest of windows ({reason}). Run `mtorl data build` again")

# ---- addresses in an object store
UNKNOWN_ADDRESS = Words("unknown-address", "{address}: unknown kind of address. Use one of {schemes}")
UNREADABLE_ADDRESS = Words(
    "unreadable-address", "{address}: can't be read ({reason}). Set credentials in the environment"
)
CHANGED = Words("log-changed", "{log}: changed while it was read. Rename a log once it is complete, and run again")

# ---- descriptions
NO_DESCRIPTION_NEEDED = Words("no-description-needed", "{log}: needs no description: --dataset {dataset}")
UNCLEAR_COLUMNS = Words("unclear-columns", "{log}: which columns are {roles}? Say so:{options}\nin the file: {columns}")
UNKNOWN_ADAPTER = Words("unknown-adapter", "adapter: {adapter!r} is not one of {known}")
FIXED_FILES = Words("fixed-files", "{field}: adapter {adapter!r} knows its files. Leave {field} out")
SIMULATED_ONLY = Words("needs-log", "data set {dataset!r} needs a log: give its path. Only the simulator makes its own")

# ---- rows and columns
BAD_ROWS = Words("bad-rows", "{log}: {bad:,} of {total:,} rows can't be used\n{faults:\n}")
NO_GOOD_ROW = Words("no-good-row", "{log}: none of {total:,} rows can be used. Is it a {dataset!r} log?\n{faults:\n}")
BAD_CONVERSIONS = Words("bad-conversions", "{faults:\n}\nRepair them, or leave them out: --bad-rows quarantine")
NO_CONVERSION_FITS = Words(
    "no-conversion-fits",
    "{file}: not one row counts for a touchpoint ({counts}). Check its columns and the units of its times. Its {key} "
    "is, for instance, {theirs}, and the log's {own}",
)
LEAKS = Words("leaks", "{leaks:\n}\nThey are known only afterwards. List them under outcomes, or leave them out")
DECIMAL_CATEGORIES = Words(
    "decimal-categories",
    "categories that are decimal numbers match only as the same text: {columns}. Make the columns numeric, or round "
    "them in the log and in requests",
)
REPEATED_HOUR = Words(
    "repeated-hour",
    "column {column!r}: {rows:,} rows are in the hour that clocks of {zone} show twice when summer ends. They count "
    "as its second time, so those of the first are an hour late. Log times in UTC, or with their offset",
)

# ---- views of features
TAKEN_NAME = Words("taken-name", "column {column!r}: a feature of every data set has this name. Rename the column")
VIEW_LACKS = Words("view-lacks", "features: view {view!r}: {file} lacks {columns}")
VIEW_TYPE = Words("view-type", "features: view {view!r}: {file}: {column} is not a column of {wanted}")
OTHER_STORE = Words("other-store", "{repo}: {view} is not that of data set {dataset!r}: {columns}. Create it again")

# ---- decisions in the lake
UNKNOWN_ARM = Words("unknown-arm", "arm: {arm!r} is not one of {known}")
NO_PROBABILITIES = Words("no-probabilities", "{lake}: of arm {arm!r} of {experiment!r}, no decision has probabilities")
STILL_THERE = Words("still-there", "{file}: {rows:,} rows of forgotten users (column {column!r})")
FILE_GONE = Words("file-gone", "{file}: not there any more, so it was not searched")

# ---- folders of `mtorl data build`
TRUSTED_ADDRESS = Words("trusted-address", "{log}: an address is copied and checked. Give --dataset, and not --trusted")
TRUSTED_CONVERSIONS = Words(
    "trusted-conversions", "{log}: a trusted log has its outcomes. Drop --trusted, or conversions"
)
HAS_DECISIONS = Words("has-decisions", "{log}: has own decisions. Give --own-decisions the log without them")
BUILT = Words("built", "{folder}: {rows:,} touchpoints, {exposures:,} of them from {decisions:,} own decisions")
WITHOUT_LOG = Words("without-log", "{folder}: has windows, but no log. Build it again, with --own-decisions")
WITHOUT_DECISIONS = Words(
    "without-decisions", "{folder}: built without the lake's decisions. Build it with --own-decisions"
)
OTHER_DESCRIPTION = Words("other-description", "{folder}: built with another {dataset}: {fields} differ. Build again")
TAKEN_WHOLE = Words("taken-whole", "{folder}: {setting}: a built log is taken whole. Set 0, or build a smaller log")
OTHER_WINDOWS = Words("other-windows", "{folder}: windows of another log, as after `mtorl data forget`. Build it again")
REPLACED = Words("replaced", "{folder}: another build replaced it while this run was reading it. Run again")
