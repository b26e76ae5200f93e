"""Compares the arms of the running experiments, based on the decisions in the lake."""

from kfp.dsl import Artifact, Output

from components.component import component


@component("verdict", cached=False)
def verdict(
    lake: str, experiment: str, gain: str, weights: str, budget: float, since: str, until: str, result: Output[Artifact]
) -> str:
    """Compare the arms of each experiment; returns the verdict in one word, or one word per experiment.

    Each run judges all decisions of an experiment and not only new ones. The rate of wrong verdicts therefore stays
    below its limit, however often the step runs.

    Args:
        experiment: Path of the experiment file, or of a folder with several files, as the router reads them.
        gain: The reward, as in the description of the data set: click, or {click: 0.1, revenue: 1}.
        weights: Parquet file with decision_id and weight, for a replay of a real log; empty for live traffic.
        budget: Budget of a replay, in currency units per decision; 0 for live traffic.
        result: The verdict as JSON. For a folder, the verdicts by file name.
    """
    import json
    from pathlib import Path

    from monitoring.decision_log import Period
    from monitoring.verdict.period import verdict_of_period
    from mtorl.runtime.step import step

    with step():
        period = Period.of(since, until)
        several = Path(experiment).is_dir()
        files = sorted(Path(experiment).glob("[!.]*.yaml")) if several else [Path(experiment)]
        judged = {file.stem: verdict_of_period(lake, str(file), period, gain, weights, budget) for file in files}
        found = judged if several else next(iter(judged.values()))
        Path(result.path).write_text(json.dumps(found, indent=2))
        words = [f"{name}: {one['verdict']}" if several else one["verdict"] for name, one in judged.items()]
        return ", ".join(words)
