"""The assignment, its handout and its grader. May import everything; nothing imports it."""
