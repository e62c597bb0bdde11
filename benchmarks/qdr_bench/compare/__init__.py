"""`qdr-edge compare`: what changed between two reports, and what only seems to have.

reading.py      two report.json, and whether their machines are alike
metrics.py      the figures of a row, each with the samples that say how sure it is
judge.py        same, better, worse or cannot tell
outputs.py      JUnit for a CI, Markdown for its summary page
"""
