"""What a training shows: lines on the screen, the time left, and metrics for W&B and MLflow."""
