"""`qdr-edge evaluate`: how well what ships answers, with intervals, by level and by subgroup.

subject.py     what is evaluated: a run's recorded answers
device.py      … or a bundle's, computed as a device computes them
levels.py      images, eyes, patients
subgroups.py   columns of the table, numbers in bins
document.py    all figures as one JSON document
tables.py      the document for people
ledger.py      how often a test split was looked at
"""
