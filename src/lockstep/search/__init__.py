"""Search for hyper-parameters: many trainings, judged by the validation split."""
