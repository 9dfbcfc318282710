"""What can be converted: one module a source, each with the function `load(request)`."""
