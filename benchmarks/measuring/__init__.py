"""How good the measurers are, and how fast: one module per kind of media."""
