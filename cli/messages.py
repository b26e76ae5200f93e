"""Messages of commands that stop before they call another package."""

from mtorl.runtime.message import Words

NO_USERS = Words("no-users", "No user is named. Give --user, --users-file or --older-than.")
NO_FOLDER = Words("no-folder", "{folder}: there is no such folder.")
NO_DAYS = Words("no-days", "--older-than: {days:g} is not a number of days above 0.")
BUCKET_ALONE = Words("bucket-alone", "{address} is a lake. Use --log and --feature-repo only with a local folder.")
LOG_AND_DATASET = Words("log-and-dataset", "Give --log (the file) and --dataset (its description) together.")
NO_STATE = Words("no-state-folder", "{folder}: no decision log yet. Run mtorl serve, or give an existing lake.")
OPTION_NEEDED = Words("option-needed", "Give --{option}: {folder} is not a state folder of mtorl serve that names it.")
SAME_NAME = Words("same-file-name", "{files}: two files have the same name. Rename one of them.")
LOG_NOT_READ = Words("log-not-read-yet", "The log has not been read yet. Try again in a minute.")
