"""`days.py`: a decision log of many days whose truth is known; `shifts.py`: what happens to it."""
