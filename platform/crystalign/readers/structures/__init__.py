"""Structures: CIF, POSCAR, XDATCAR, extended XYZ, JSON and the output of VASP; `structure_file` reads any of them."""
