"""Everything that depends on how other libraries are built inside, one module per concern."""
