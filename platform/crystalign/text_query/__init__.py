"""Typed words to structure: which part of a query is a formula, an element, a class, a symmetry or a property."""
