"""KFP pipelines, the local runner, the compiler, the whole loop."""
