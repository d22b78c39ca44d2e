"""Text for Branch-Train-MiX: five synthetic domains, a tokenizer, and batches that are a function of the step.

May import only settings, files and checkpoint of support/, for options and for reading and writing files.
"""
