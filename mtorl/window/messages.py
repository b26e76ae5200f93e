"""Messages about windows, and about the histories and folders from which windows are built."""

from mtorl.runtime.message import Words

LACKS_COLUMNS = Words("lacks-columns", "{steps}: missing columns {columns}. Build the folder again: `mtorl data build`")
NO_SUCH_STEP = Words("no-such-step", "rows: outside the {steps} steps, which are counted from 0")
NO_INSTANCE = Words("no-instance", "instance {index}: expected an object with lists, got {given}")
NO_FIELD = Words("no-field", "{where}: {field} is missing")
NO_CHANNEL = Words("no-channel", "instance {index}: unknown channel {channel!r} in prev_channel. Known: {known}")
HISTORY_LENGTH = Words("history-length", "history: {column} has {length} touchpoints, but hist_channel has {channels}")
HISTORY_ORDER = Words("history-order", "history: hist_timestamp is not a list of times, oldest first: {given}")
PER_CHANNEL = Words("per-channel", "features: {field} has {values} values for {channels} channels")
NOT_PACKED = Words("not-packed", "history: not packed by this release ({reason}). Materialize the history again")
