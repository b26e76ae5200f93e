"""Messages about logs, their descriptions and the lake."""

from mtorl.runtime.message import Words

NO_COST = Words(
    "no-cost",
    "column {column!r}: every exposure costs 0, so there is no budget to spend. In the data set description, name the "
    "column with the cost, or let each exposure cost one unit: columns: {{cost: {{value: 1}}}}",
)
UNKNOWN_DATASET = Words("unknown-dataset", "no data set {name!r}. Write it: mtorl data init LOG. Built in: {known}")
OPEN_CHECKS = Words("open-checks", "{file}: {count} open CHECK. Answer each, and delete its comment:\n  {checks:\n  }")
NOT_FORGOTTEN = Words("not-forgotten", "{file}: not written by `mtorl data forget` ({reason}). Restore the file")
NO_LAKE = Words("no-lake", "{place}: not a valid address of a lake: {reason}")
OTHER_RECORDS = Words("other-records", "{lake}: {reason}. Read the lake with the release that wrote it")
BAD_PROPENSITY = Words(
    "bad-propensity",
    "propensity: {rows} values are missing or outside (0, 1]; the first is {value} in row {row}. If the log has no "
    "propensities, set another `propensity` in the data set description",
)
