"""The `mtorl` command as an application file: spark-submit takes a file whose name ends in .py.

spark-submit /opt/spark/submit.py data build LOG --dataset ... --out ...
"""

from cli.main import main

if __name__ == "__main__":
    main()
