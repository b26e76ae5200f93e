"""Defines the messages that the monitor and the verdict show to the owner of an experiment."""

from mtorl.runtime.message import Words

# Reasons of verdicts and of advice.
NOTHING_LOGGED = Words("nothing-logged", "The log has no decision of this experiment yet. Routers upload each minute.")
NOTHING_COUNTS = Words("nothing-counts", "No decision counts yet. {count:,} are left out: {why}{hint}.")
WAITS_FOR_START = Words("waits-for-start", "In a draft, all users get the incumbent. Challengers get no requests.")
IN_SHADOW = Words("in-shadow", "All users get the incumbent; the challengers' decisions are only logged.")
NO_ROUTER_HERE = Words("no-router-here", "mtorl serve does not run here, so callers get no decision from it.")
MONEY_LOW = Words(
    "money-low", "{left:,.2f} of {limit:,.2f}{of} are left. Once they are spent, no arm shows ads: raise `amount`."
)
MONEY_SHORT = Words(
    "money-short",
    "{left:,.2f} of {limit:,.2f}{of} are left, for {lasts:,.0f} hours at the rate so far. The remaining stages take "
    "{needed:,.0f} hours: raise `amount`.",
)
SILENT = Words("silent", "No decision for {silence}, since {since} UTC. The longest earlier gap was {usual}.")
NOT_ASKED = Words("not-asked", "{silence} Callers send no requests, or the log does not arrive here.")
LOG_UNKNOWN = Words("log-unknown", "The log can't be read, so there is no evidence for a promotion: {fault}")
NOT_IN_LOG = Words("not-in-log", "The log has no decision of {challenger}.")

# Periods and logs.
NOT_A_TIME = Words("not-a-time", "{name}: {text!r} is not an ISO time such as 2026-01-31T12:00:00Z")
EMPTY_LAKE = Words("empty-lake", "{lake}: no decisions in this lake. Routers upload their logs there every minute")
EMPTY_PERIOD = Words(
    "empty-period", "{lake}: no decision from {since} to {until}. Check since and until, the router and its uploads"
)
CHECK_AT_WORK = Words("check-at-work", "{folder}: another check is running here. Wait until it has finished")
OTHER_PERIODS = Words(
    "other-periods", "{path}: its periods have {hours} hours, not {wanted}. Name another state, or move this one away"
)
FUTURE_STATE = Words(
    "future-state", "{path}: the last judged period ends in the future, {until}: a clock was ahead. Move the file away"
)
NO_CHECK = Words("no-check", "{state}: no check has been made. Run mtorl monitor check")
