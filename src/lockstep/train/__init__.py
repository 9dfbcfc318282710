"""Training: the loop, the step, evaluation, and what watches them."""
