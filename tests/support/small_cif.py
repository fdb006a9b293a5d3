"""The CIF of a small crystal, as a visitor of the page would drop it."""

CSCL = """data_CsCl
_cell_length_a 4.12
_cell_length_b 4.12
_cell_length_c 4.12
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
 _atom_site_label
 _atom_site_type_symbol
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 Cs0 Cs 0.0 0.0 0.0
 Cl1 Cl 0.5 0.5 0.5
"""
