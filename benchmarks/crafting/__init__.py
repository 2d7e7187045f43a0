"""How fast the attacks craft, against their published loops."""
