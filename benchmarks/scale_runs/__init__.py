"""Parts of benchmarks/scale.py: a lake of four weeks (`made_lake.py`), work on its last day (`batch.py`), and more."""
