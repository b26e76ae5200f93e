"""Test that a lineage has each arm's figures. tests/components/test_publish.py tests a whole lineage."""

from mtorl.artifact.lineage import Figure
from serving.versions.origin import figures_of

EVALUATION = {
    "challenger": {"reward_auc": 0.7, "reward_auc_ci": [0.68, 0.72], "action_auc": None, "reward_ece": 0.01},
    "incumbent": {"reward_auc": 0.6, "reward_auc_ci": [0.58, 0.62]},
    "value": {"challenger": 0.14, "challenger_ci": [0.13, 0.15], "incumbent": 0.06, "incumbent_ci": [0.05, 0.07]},
}


def test_each_arm_has_its_own_figures_with_intervals_where_there_are_any() -> None:
    assert figures_of(EVALUATION, "challenger") == {
        "value": Figure(value=0.14, low=0.13, high=0.15),
        "reward_auc": Figure(value=0.7, low=0.68, high=0.72),
        "reward_ece": Figure(value=0.01),
    }
    assert figures_of(EVALUATION, "incumbent") == {
        "value": Figure(value=0.06, low=0.05, high=0.07),
        "reward_auc": Figure(value=0.6, low=0.58, high=0.62),
    }
