"""Group influence functions, and the retraining that proves or refutes them (thesis chapter 3)."""
