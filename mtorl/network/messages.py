"""Messages about the training of a network."""

from mtorl.runtime.message import Words

OTHER_TRAINING = Words(
    "other-training", "{file}: checkpoint of another training: {fields} differ. Delete the file, or name another one"
)
DIVERGED = Words("diverged", "{where}: {term} is {value}. Lower lr or clip, or check for extreme inputs")
NO_BATCH = Words("no-batch", "every shard is too small for a batch in each of {processes} processes. Lower batch_size")
NO_WINDOWS = Words("no-windows", "no {which} windows: the log has too few users")
