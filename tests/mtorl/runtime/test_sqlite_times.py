import subprocess
import sys
from pathlib import Path


def test_a_library_reads_its_own_times(tmp_path: Path) -> None:
    """Another library, such as IPython, may register its own converter for SQLite times.

    The test needs a subprocess, because the converter is registered for the whole process.
    """
    package = tmp_path / "IPython" / "core"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "history.py").write_text(
        "import sqlite3, datetime\n"
        'sqlite3.register_converter("timestamp", lambda val: datetime.datetime.fromisoformat(val.decode()))\n'
    )
    code = (
        "import sqlite3\n"
        "from mtorl.runtime.sqlite_times import read_times_by\n"
        "read_times_by(lambda stored: int(stored))\n"
        "import IPython.core.history\n"
        'db = sqlite3.connect(":memory:", detect_types=sqlite3.PARSE_DECLTYPES)\n'
        'db.execute("CREATE TABLE t (at timestamp)")\n'
        'db.execute("INSERT INTO t VALUES (1714550460)")\n'
        'print(db.execute("SELECT at FROM t").fetchall())\n'
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[(1714550460,)]", found.stderr
