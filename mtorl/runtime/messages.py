"""Messages about files and folders that several packages use."""

from mtorl.runtime.message import Words

UNREADABLE = Words("unreadable", "{file}: cannot read {what}: {reason}")
BUSY = Words("busy", "{folder}: another {what} is running in this folder. Wait until it has finished")
START_ANEW = Words("start-anew", "{file}: cannot read {what} ({reason}). Delete the file to start again from nothing")
DAMAGED = Words("damaged-file", "{file}: damaged, or changed after it was saved (digest differs). Copy it again")
OTHER_SCHEMA = Words("other-schema", "{file}: schema version {version}; this release reads {known}. Recreate the file")
