"""What the scripts share; a docstring says what is in each module. They import data and model, but no script."""
