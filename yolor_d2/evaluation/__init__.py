"""What is made of evaluations."""
