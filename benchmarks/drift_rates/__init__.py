"""What `drift.py` and `drift_job.py` measure with: periods without drift (`periods`), and their tables (`table`)."""
