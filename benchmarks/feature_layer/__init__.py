"""The measures of `features.py`: one module each. What a module measures runs in processes of its own (`child.py`)."""
