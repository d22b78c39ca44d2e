"""The assignment, its handout and its grader. It may import everything, and nothing imports it."""
