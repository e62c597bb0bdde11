"""Measurement of sealed bundles: latency, memory and accuracy of the very same artefact.

``qdr-edge bench`` is the front door. This package imports :mod:`qdr_edge` only; it reads the files
that training and export leave behind and never their code.
"""
