"""Runs the `mtorl` command under spark-submit, which requires an application file with the suffix .py.

spark-submit /opt/spark/submit.py data build LOG --dataset ... --out ...
"""

from cli.main import main

if __name__ == "__main__":
    main()
