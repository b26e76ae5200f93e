"""What the raw log holds now: the step that reads it is done again if, and only if, this has changed."""

from components.component import component


# Not cached: a cache knows the path of a log and not its content.
@component("see what the log holds", cached=False)
def fingerprint(source: str, dataset: str) -> str:
    """Return a digest of the content of a log, of its description and of the files that the description names."""
    from features.ingest.log_folder import RawLog, content_of
    from mtorl.log.dataset import SpecError
    from mtorl.log.touchpoints import LogError
    from mtorl.runtime.step import step

    with step(LogError, SpecError):
        return content_of(RawLog.named(source, dataset))
