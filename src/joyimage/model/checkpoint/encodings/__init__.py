"""How weight files store the values of a matrix, one module per family of formats."""
