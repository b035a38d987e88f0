"""Which positions of which axes live and die together, from one end of a function to the other."""
