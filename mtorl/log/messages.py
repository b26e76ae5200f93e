"""Messages about logs, their descriptions and the lake."""

from mtorl.runtime.message import Words

NO_COST = Words(
    "no-cost",
    "column {column!r}: every exposure costs 0, so there is no budget to spend. Name the column of the cost, or let an "
    "exposure cost one unit, in the description: columns: {{cost: {{value: 1}}}}",
)
UNKNOWN_DATASET = Words("unknown-dataset", "no data set {name!r}. Give the path of a .yaml, or a built-in one: {known}")
OPEN_CHECKS = Words("open-checks", "{file}: {count} open CHECK. Answer each, and delete its comment:\n  {checks:\n  }")
NOT_FORGOTTEN = Words("not-forgotten", "{file}: not what `mtorl data forget` writes ({reason}). Restore the file")
NO_LAKE = Words("no-lake", "{place}: no place of a lake: {reason}")
OTHER_RECORDS = Words("other-records", "{lake}: {reason}. Read it with the release that wrote it")
BAD_PROPENSITY = Words(
    "bad-propensity",
    "propensity: {rows} rows are missing or outside (0, 1], the first is {value} in row {row}. If it has none, name "
    "another `propensity` in the data set description",
)
