"""Text for Branch-Train-MiX: synthetic domains and your own, tokenizers, and batches as a function of the step."""
