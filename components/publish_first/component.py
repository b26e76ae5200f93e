"""A first model for each arm, under a name that is known before there is a model: servers wait for it."""

from kfp.dsl import Input, Model

from components.component import component


# Not cached: it writes to the registry.
@component("publish the first models", cached=False)
def publish_first(incumbent: Input[Model], challenger: Input[Model], decision: str, registry: str) -> str:
    """Publish a first model of each arm unless it has one; returns what there is then, in words.

    Without a challenger that the gate lets pass, both arms start with the incumbent's model: an A/A test.

    Args:
        incumbent: Artifact folder.
        challenger: Artifact folder.
        decision: The gate's: "promote" or "reject".
        registry: Root folder of the registry.
    """
    import tempfile
    from pathlib import Path

    from mtorl.runtime.step import step
    from serving.archive import package
    from serving.registry import FIRST, RegistryError, publish, published_digest

    with step(RegistryError):
        said = []
        artifacts = {"incumbent": incumbent, "challenger": challenger if decision == "promote" else incumbent}
        for arm, artifact in artifacts.items():
            place = Path(registry) / arm / FIRST
            was_there = published_digest(place) is not None
            if not was_there:
                with tempfile.TemporaryDirectory() as store:
                    archive = package(Path(artifact.path), arm, Path(store))
                    publish(Path(artifact.path), archive, Path(registry), arm, FIRST)
            digest = str(published_digest(place))[:12]
            said.append(f"{place}: {'was there' if was_there else 'published'}, digest {digest}")
        if decision != "promote":
            said.append("the gate rejected the challenger: both arms start with the incumbent's model (an A/A test)")
        print("\n".join(said))
        return "\n".join(said)
