"""Densities of states: columns of text, `DOSCAR` and `vasprun.xml`."""
