"""Messages about trainings of a network."""

from mtorl.runtime.message import Words

OTHER_TRAINING = Words(
    "other-training", "{file}: a checkpoint of another training: {fields} differ. Delete it, or name another file"
)
DIVERGED = Words("diverged", "{where}: {term} is {value}. Lower lr or clip, or check for extreme inputs")
NO_BATCH = Words("no-batch", "no shard has a batch for each of {processes} processes. Lower batch_size")
NO_WINDOWS = Words("no-windows", "no {which} windows: the log has too few users")
