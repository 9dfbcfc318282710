"""Jobs of a batch scheduler: their scripts, their submission, and what becomes of them."""
