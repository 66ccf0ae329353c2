"""Benchmarks: everything that is compared is measured side by side, in one run.

`python -m bench --help` tells what can be measured and how; docs/performance.md what came of it.
"""
