"""Trained models for other runtimes. Each format is a module here; what all of them share lies beside them.

``formats.py`` knows the modules, ``graph.py`` says what a network computes, ``runtime.py`` asks an exported one without
torch, ``parity.py`` compares both before anything is kept.
"""
