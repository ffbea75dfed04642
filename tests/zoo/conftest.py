"""The zoo's last line: how many architectures are in contract."""

from collections import Counter


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.getreports("passed")
    counts = Counter(value for report in reports for key, value in report.user_properties if key == "zoo")
    if counts:
        terminalreporter.write_line(
            f"zoo: {counts['in contract']} of {counts.total()} architectures in contract at all three sizes, "
            f"{counts['exception']} in the table of exceptions"
        )
