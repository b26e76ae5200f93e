"""Parts of benchmarks/scale.py: a lake of four weeks (`made_lake.py`), and what is measured of its last day."""
