"""What these tests need of the system."""

import sys

# Windows has no fork, no pipes in folders, and no names such as these tests give to files.
collect_ignore_glob = ["test_*.py"] if sys.platform == "win32" else []
