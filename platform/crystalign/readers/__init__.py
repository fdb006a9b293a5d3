"""Readers of files that other programs wrote: structures, powder patterns, densities of states.

A reader turns the bytes of one file into a `Crystal` or into plain numbers. It knows no modality, no dataset and no
source: `crystalign.modalities` makes values of the numbers, `crystalign.sources` decides which files are read.
"""
