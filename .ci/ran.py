"""Fails unless a test of a JUnit report really ran: `python .ci/ran.py REPORT.xml`. A skipped test did not."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def ran(report: Path) -> int:
    """The number of tests in the report that were not skipped."""
    return sum(case.find("skipped") is None for case in ET.parse(report).iter("testcase"))


if __name__ == "__main__":
    path = Path(sys.argv[1])
    count = ran(path) if path.is_file() else 0
    print(f"{path}: {count} tests ran" if count else f"{path}: no test ran; all were skipped, or there are none")
    sys.exit(not count)
