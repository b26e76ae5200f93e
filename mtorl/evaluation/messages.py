"""Defines the texts of evaluations: reasons for the gate's decisions, and reasons why a log can't evaluate a policy."""

from mtorl.runtime.message import Words

PROVEN = Words("proven", "{difference}: all above {least:g}")
NOT_PROVEN = Words("not-proven", "{difference}: not all above {least:g}")
NOT_BETTER = Words("not-better", "{difference}: not a gain over our own last model")
NOT_WORSE = Words("not-worse", "{difference}: a gain, all above {least:+.4g} ({margin:.3g} of our last model's value)")
UNSETTLED = Words("unsettled", "{difference}: a gain, but not all above {least:+.4g}. An experiment can decide")
TEST_USERS = Words("test-users", "the log has too few test users: {users} of {needed}")
IMPOSSIBLE = Words(
    "impossible-exposures",
    "the log can't value the {arm}: the logging policy could not have made {share:.0%} of its exposures (at most "
    "{most:.0%} is allowed). Let arms explore exposures, and collect only decisions made from then on",
)
LOST_CHANNEL = Words(
    "lost-channel",
    "the challenger expects {channel} in {expected:.1%} of touchpoints, and test users have it in {logged:.1%}: its "
    "training log lost touchpoints of this channel. Find out where, then train again",
)
RESAMPLES = Words("resamples", "the log can't show the difference: too few resamples of its users have a value")
EFFECTIVE_SAMPLE = Words(
    "effective-sample",
    "the log says too little about the {arm}: its effective sample is {ess:.0f} of {rows:.0f} rows, at least "
    "{least:.0f} are needed",
)
WRONG_PROPENSITIES = Words(
    "wrong-propensities",
    "the propensities do not describe the log: the {arm}'s mean weight is {mean:.2f} [{low:.2f}, {high:.2f}] and "
    "should be 1",
)
FEW_DECISIONS = Words(
    "few-decisions",
    "the log has only {count} of {needed} own decisions of test users, and its touchpoints cannot value the policies, "
    "because they leave out decisions that showed no ad. Train again when the log has more decisions",
)
OVEREXPOSED = Words(
    "overexposed",
    "the propensities do not describe the log: {channel} has {count:,} exposures, and its propensities imply at most "
    "{expected:,.0f}. Log the propensities with which channels were drawn, and exposures of all channels alike",
)
ALL_KNOWN = Words("all-users-known", "all {users:,} users of the log are training users of the artifact")
KNOWN_USERS = Words(
    "known-users",
    "{known:,} of the log's {users:,} users are training users of the artifact, such as {example!r}: metrics on them "
    "would be too good. --only-new leaves these users out",
)
OTHER_DATA_SET = Words("other-data-set", "the artifact has {field} {artifact}, the description {log}. Use the same")
INCUMBENT_DECISIONS = Words(
    "incumbent-decisions",
    "the serving incumbent, {policy}, has no artifact, and only {count} of {needed} usable decisions of test users. "
    "Wait for more. If none arrive, `mtorl data compact` shows why: the incumbent must send probabilities "
    "(docs/incumbent.md). Until then, leave the parameter lake empty to compare with the log's channel frequencies",
)
NO_COMMON_DECISION = Words("no-common-decision", "there is no decision for which both policies answered")
NO_USABLE_DECISION = Words("no-usable-decision", "no decision is usable; the most frequent reason is: {reason}")
NO_INCUMBENT_PROBABILITIES = Words(
    "no-incumbent-probabilities", "the incumbent's probabilities are unknown (a baseline needs propensity 1)"
)
NO_CHALLENGER_PROBABILITIES = Words("no-challenger-probabilities", "the challenger's answers have no probabilities")
NOT_MATURE = Words("decisions-not-mature", "outcomes of these decisions may still arrive")
EXPOSED_NOTHING = Words("exposed-nothing", "no spend to compare at: {policy} exposed nothing in {count} decisions")
EXPLORATION_SPENDS = Words("exploration-spends", "exploration alone spends {explored:.4g}: plan more or explore less")
